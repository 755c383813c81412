# Evaluation sets, embeddings of all checkpoints, three evaluations that read them, and what training saw of the sets.


rule prepare_dataset_job:
    input:
        dataset_table=ancient(CFG.prepare_dataset.table),
        files=dataset_files,
    output:
        folder=directory(prepared_set("{dataset}")),
    params:
        settings=dataset_settings,
        row=dataset_row,
        files=lambda wildcards, input: "--files" if input.get("files") else "",
    log:
        f"{SHARED_ROOT}/logs/prepare_dataset/{{dataset}}.log",
    benchmark:
        f"{SHARED_ROOT}/benchmarks/prepare_dataset/{{dataset}}.tsv"
    conda:
        "../../envs/environment.yaml"
    message:
        "Preparing the evaluation set {wildcards.dataset}"
    shell:
        "python -m pipeline_steps.prepare_dataset --dataset {wildcards.dataset} --dataset-table {input.dataset_table:q} "
        "{params.files} {input.files:q} --folder {output.folder:q} "
        "--threads {threads} --log-file {log:q} --settings {params.settings:q}"


# A rule per batch of methods and seeds, whose job reads every picture once for all of its checkpoints. When one of them
# has changed, the job and the evaluations of its batch run again; the embeddings of the others come from the cache.
for number, batch in enumerate(BATCHES):

    rule:
        name:
            f"extract_features_{number}_job"
        input:
            checkpoints=[checkpoint_in(**cell) for cell in batch],
            pairs=PAIRS,
            prepared=PREPARED,
        output:
            features=[expand(FEATURES, **cell, allow_missing=True) for cell in batch],
        params:
            settings=settings("extract_features", "results_dir"),
        log:
            f"{ROOT}/logs/extract_features/{number}.log",
        benchmark:
            f"{ROOT}/benchmarks/extract_features/{number}.tsv"
        threads: max(8, 1 + CFG.extract_features.workers)
        resources:
            gpu=1,
            tasks_per_gpu=0,
            **features_memory(len(batch)),
        conda:
            "../../envs/environment.yaml"
        message:
            f"Embedding the evaluation sets with {len(batch)} checkpoints"
        shell:
            "python -m pipeline_steps.extract_features --checkpoint {input.checkpoints:q} --pairs {input.pairs:q} "
            "--prepared {input.prepared:q} --features {output.features:q} "
            "--threads {threads} --log-file {log:q} --settings {params.settings:q}"

    # What a profile's set-resources says of extract_features_job holds for every batch.
    workflow.get_rule(f"extract_features_{number}_job").resources.update(
        workflow.resource_settings.overwrite_resources.get("extract_features_job", {})
    )


rule eval_zeroshot_job:
    input:
        features=FEATURES,
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
        features=FEATURES,
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
        features=FEATURES,
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


rule:
    name:
        named("check_overlap")
    input:
        pairs=PAIRS,
        prepared=PREPARED,
    output:
        overlaps=OVERLAPS,
        report=f"{ROOT}/check_overlap/report.json",
    params:
        settings=settings("check_overlap"),
    log:
        f"{ROOT}/logs/check_overlap.log",
    benchmark:
        f"{ROOT}/benchmarks/check_overlap.tsv"
    conda:
        "../../envs/environment.yaml"
    message:
        "Looking for pictures of the evaluation sets among those of training"
    shell:
        "python -m pipeline_steps.check_overlap --pairs {input.pairs:q} --prepared {input.prepared:q} "
        "--overlaps {output.overlaps:q} --report {output.report:q} "
        "--threads {threads} --log-file {log:q} --settings {params.settings:q}"
