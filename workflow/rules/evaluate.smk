# Embeddings once per checkpoint, then three evaluations that read them.


rule extract_features_job:
    input:
        checkpoint=checkpoint_of,
        pairs=rules.build_manifest.output.pairs,
        datasets=dataset_files,
        dataset_table=ancient(CFG.extract_features.dataset_table),
    output:
        features=f"{ROOT}/extract_features/{CELL}/features.safetensors",
    params:
        settings=settings("extract_features"),
        rows=dataset_rows,
    log:
        f"{ROOT}/logs/extract_features/{CELL}.log",
    benchmark:
        f"{ROOT}/benchmarks/extract_features/{CELL}.tsv"
    resources:
        gpu=GPU,
    conda:
        "../../envs/environment.yaml"
    message:
        "Embedding the evaluation sets with {wildcards.method} (seed {wildcards.seed})"
    shell:
        "python -m pipeline_steps.extract_features --checkpoint {input.checkpoint:q} --pairs {input.pairs:q} "
        "--dataset-table {input.dataset_table:q} --features {output.features:q} "
        "--method {wildcards.method} --seed {wildcards.seed} "
        "--threads {threads} --log-file {log:q} --settings {params.settings:q}"


rule eval_zeroshot_job:
    input:
        features=rules.extract_features_job.output.features,
    output:
        scores=f"{ROOT}/eval_zeroshot/{CELL}/scores.json",
        predictions=f"{ROOT}/eval_zeroshot/{CELL}/predictions.parquet",
    params:
        settings=settings("eval_zeroshot"),
    log:
        f"{ROOT}/logs/eval_zeroshot/{CELL}.log",
    benchmark:
        f"{ROOT}/benchmarks/eval_zeroshot/{CELL}.tsv"
    conda:
        "../../envs/environment.yaml"
    message:
        "Zero-shot classification with {wildcards.method} (seed {wildcards.seed})"
    shell:
        "python -m pipeline_steps.eval_zeroshot --features {input.features:q} --scores {output.scores:q} "
        "--predictions {output.predictions:q} --method {wildcards.method} --seed {wildcards.seed} "
        "--threads {threads} --log-file {log:q} --settings {params.settings:q}"


rule eval_probe_job:
    input:
        features=rules.extract_features_job.output.features,
    output:
        scores=f"{ROOT}/eval_probe/{CELL}/scores.json",
        predictions=f"{ROOT}/eval_probe/{CELL}/predictions.parquet",
    params:
        settings=settings("eval_probe"),
    log:
        f"{ROOT}/logs/eval_probe/{CELL}.log",
    benchmark:
        f"{ROOT}/benchmarks/eval_probe/{CELL}.tsv"
    conda:
        "../../envs/environment.yaml"
    message:
        "Linear probe on {wildcards.method} (seed {wildcards.seed})"
    shell:
        "python -m pipeline_steps.eval_probe --features {input.features:q} --scores {output.scores:q} "
        "--predictions {output.predictions:q} --method {wildcards.method} --seed {wildcards.seed} "
        "--threads {threads} --log-file {log:q} --settings {params.settings:q}"


rule eval_retrieval_job:
    input:
        features=rules.extract_features_job.output.features,
    output:
        scores=f"{ROOT}/eval_retrieval/{CELL}/scores.json",
        ranks=f"{ROOT}/eval_retrieval/{CELL}/ranks.parquet",
    params:
        settings=settings("eval_retrieval"),
    log:
        f"{ROOT}/logs/eval_retrieval/{CELL}.log",
    benchmark:
        f"{ROOT}/benchmarks/eval_retrieval/{CELL}.tsv"
    conda:
        "../../envs/environment.yaml"
    message:
        "Retrieval with {wildcards.method} (seed {wildcards.seed})"
    shell:
        "python -m pipeline_steps.eval_retrieval --features {input.features:q} --scores {output.scores:q} "
        "--ranks {output.ranks:q} --method {wildcards.method} --seed {wildcards.seed} "
        "--threads {threads} --log-file {log:q} --settings {params.settings:q}"
