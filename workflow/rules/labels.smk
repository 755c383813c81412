# Learning with noisy labels: the noise, CLIPCleaner's selection by the reference, and a classifier trained on it.


rule:
    name:
        named("inject_label_noise")
    input:
        prepared=LABELLED,
        file=CFG.inject_label_noise.file or [],
    output:
        labels=LABELS,
        report=f"{ROOT}/inject_label_noise/report.json",
    params:
        settings=settings("inject_label_noise"),
    log:
        f"{ROOT}/logs/inject_label_noise.log",
    benchmark:
        f"{ROOT}/benchmarks/inject_label_noise.tsv"
    conda:
        "../../envs/environment.yaml"
    message:
        "Putting noise into labels"
    shell:
        "python -m pipeline_steps.inject_label_noise --prepared {input.prepared:q} --labels {output.labels:q} "
        "--report {output.report:q} "
        "--threads {threads} --log-file {log:q} --settings {params.settings:q}"


rule select_clean_job:
    input:
        features=reference_features,
        checkpoint=REFERENCE_CHECKPOINT,
        labels=LABELS,
        class_features=CFG.select_clean.class_features or [],
    output:
        selection=f"{ROOT}/select_clean/{CELL}/selection.parquet",
        report=f"{ROOT}/select_clean/{CELL}/report.json",
    params:
        settings=settings("select_clean", "inject_label_noise"),
    log:
        f"{ROOT}/logs/select_clean/{CELL}.log",
    benchmark:
        f"{ROOT}/benchmarks/select_clean/{CELL}.tsv"
    conda:
        "../../envs/environment.yaml"
    message:
        "{wildcards.method}: selecting samples (seed {wildcards.seed})"
    shell:
        "python -m pipeline_steps.select_clean --features {input.features:q} --checkpoint {input.checkpoint:q} "
        "--labels {input.labels:q} --selection {output.selection:q} --report {output.report:q} "
        "--method {wildcards.method} --seed {wildcards.seed} "
        "--threads {threads} --log-file {log:q} --settings {params.settings:q}"


rule train_classifier_job:
    input:
        prepared=LABELLED,
        labels=LABELS,
        selection=rules.select_clean_job.output.selection,
    output:
        scores=f"{ROOT}/train_classifier/{CELL}/scores.json",
        history=f"{ROOT}/train_classifier/{CELL}/history.parquet",
        predictions=f"{ROOT}/train_classifier/{CELL}/predictions.parquet",
        weights=f"{ROOT}/train_classifier/{CELL}/model.safetensors",
    params:
        settings=settings("train_classifier"),
    log:
        f"{ROOT}/logs/train_classifier/{CELL}.log",
    benchmark:
        f"{ROOT}/benchmarks/train_classifier/{CELL}.tsv"
    resources:
        gpu=1,
        tasks_per_gpu=0,
    conda:
        "../../envs/environment.yaml"
    message:
        "{wildcards.method}: training the classifier (seed {wildcards.seed})"
    shell:
        "python -m pipeline_steps.train_classifier --prepared {input.prepared:q} --labels {input.labels:q} "
        "--selection {input.selection:q} --scores {output.scores:q} --history {output.history:q} "
        "--predictions {output.predictions:q} --weights {output.weights:q} "
        "--method {wildcards.method} --seed {wildcards.seed} "
        "--threads {threads} --log-file {log:q} --settings {params.settings:q}"


rule:
    name:
        named("make_label_tables")
    input:
        selections=cells("select_clean", CFG.classifiers, "report.json"),
        scores=cells("train_classifier", CFG.classifiers, "scores.json"),
    output:
        tables=report(directory(LABEL_TABLES), patterns=["{table}.csv"], category="Noisy labels",
                      caption="../report/tables.rst"),
    params:
        settings=settings("classifiers", "seeds"),
    log:
        f"{ROOT}/logs/make_label_tables.log",
    benchmark:
        f"{ROOT}/benchmarks/make_label_tables.tsv"
    conda:
        "../../envs/environment.yaml"
    message:
        "Making the tables of noisy labels"
    shell:
        "python -m pipeline_steps.make_label_tables --selections {input.selections:q} --scores {input.scores:q} "
        "--tables {output.tables:q} "
        "--threads {threads} --log-file {log:q} --settings {params.settings:q}"
