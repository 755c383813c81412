# Checkpoints: the reference, NCU's two phases, the baselines at equal compute, and NPC with its memory bank.


rule train_reference_job:
    input:
        pairs=PAIRS,
    output:
        checkpoint=directory(f"{ROOT}/train_reference/{CELL}/checkpoint"),
        history=f"{ROOT}/train_reference/{CELL}/history.parquet",
    params:
        settings=settings("model", "train_reference"),
        architecture=architecture,
    log:
        f"{ROOT}/logs/train_reference/{CELL}.log",
    benchmark:
        f"{ROOT}/benchmarks/train_reference/{CELL}.tsv"
    threads: REFERENCE_THREADS
    resources:
        nodes=1,
        processes=1,
        gpu=1,
        tasks_per_gpu=0,
        **training_memory("train_reference"),
    conda:
        "../../envs/environment.yaml"
    message:
        "Training the reference CLIP (seed {wildcards.seed})"
    shell:
        "launch {resources.nodes} {resources.processes} {threads} pipeline_steps.train_reference "
        "--pairs {input.pairs:q} --checkpoint {output.checkpoint:q} "
        "--history {output.history:q} --method {wildcards.method} --seed {wildcards.seed} "
        "--threads {threads} --log-file {log:q} --settings {params.settings:q}"


if CFG.import_reference.weights:

    rule import_reference_job:
        input:
            **({} if CFG.import_reference.format == "tag" else {"weights": CFG.import_reference.weights}),
        output:
            checkpoint=directory(f"{ROOT}/import_reference/{CELL}/checkpoint"),
        params:
            settings=settings("model", "import_reference"),
            architecture=architecture,
        log:
            f"{ROOT}/logs/import_reference/{CELL}.log",
        benchmark:
            f"{ROOT}/benchmarks/import_reference/{CELL}.tsv"
        conda:
            "../../envs/environment.yaml"
        message:
            "Importing the reference CLIP"
        shell:
            "python -m pipeline_steps.import_reference --checkpoint {output.checkpoint:q} "
            "--method {wildcards.method} --seed {wildcards.seed} "
            "--threads {threads} --log-file {log:q} --settings {params.settings:q}"


rule learn_prompt_job:
    input:
        pairs=PAIRS,
        reference=REFERENCE_CHECKPOINT,
    output:
        checkpoint=directory(f"{ROOT}/learn_prompt/{CELL}/checkpoint"),
        history=f"{ROOT}/learn_prompt/{CELL}/history.parquet",
    params:
        settings=settings("model", "learn_prompt"),
        architecture=architecture,
    log:
        f"{ROOT}/logs/learn_prompt/{CELL}.log",
    benchmark:
        f"{ROOT}/benchmarks/learn_prompt/{CELL}.tsv"
    resources:
        nodes=1,
        processes=1,
        gpu=1,
        tasks_per_gpu=0,
        **training_memory("learn_prompt"),
    conda:
        "../../envs/environment.yaml"
    message:
        "{wildcards.method}, phase 1: learning the negative prompt (seed {wildcards.seed})"
    shell:
        "launch {resources.nodes} {resources.processes} {threads} pipeline_steps.learn_prompt "
        "--pairs {input.pairs:q} --reference {input.reference:q} "
        "--checkpoint {output.checkpoint:q} --history {output.history:q} "
        "--method {wildcards.method} --seed {wildcards.seed} "
        "--threads {threads} --log-file {log:q} --settings {params.settings:q}"


rule unlearn_job:
    input:
        pairs=PAIRS,
        learned=learned_by,
    output:
        checkpoint=directory(f"{ROOT}/unlearn/{CELL}/checkpoint"),
        history=f"{ROOT}/unlearn/{CELL}/history.parquet",
    params:
        settings=settings("model", "unlearn"),
        architecture=architecture,
    log:
        f"{ROOT}/logs/unlearn/{CELL}.log",
    benchmark:
        f"{ROOT}/benchmarks/unlearn/{CELL}.tsv"
    resources:
        nodes=1,
        processes=1,
        gpu=1,
        tasks_per_gpu=0,
        **training_memory("unlearn"),
    conda:
        "../../envs/environment.yaml"
    message:
        "{wildcards.method}, phase 2: unlearning by optimal transport (seed {wildcards.seed})"
    shell:
        "launch {resources.nodes} {resources.processes} {threads} pipeline_steps.unlearn "
        "--pairs {input.pairs:q} --learned {input.learned:q} "
        "--checkpoint {output.checkpoint:q} --history {output.history:q} "
        "--method {wildcards.method} --seed {wildcards.seed} "
        "--threads {threads} --log-file {log:q} --settings {params.settings:q}"


rule train_baseline_job:
    input:
        pairs=PAIRS,
        reference=REFERENCE_CHECKPOINT,
    output:
        checkpoint=directory(f"{ROOT}/train_baseline/{CELL}/checkpoint"),
        history=f"{ROOT}/train_baseline/{CELL}/history.parquet",
    params:
        settings=settings("model", "train_baseline", "learn_prompt.training", "unlearn.training"),
        architecture=architecture,
    log:
        f"{ROOT}/logs/train_baseline/{CELL}.log",
    benchmark:
        f"{ROOT}/benchmarks/train_baseline/{CELL}.tsv"
    resources:
        nodes=1,
        processes=1,
        gpu=1,
        tasks_per_gpu=0,
        **training_memory("learn_prompt", "unlearn"),
    conda:
        "../../envs/environment.yaml"
    message:
        "Training the baseline {wildcards.method} (seed {wildcards.seed})"
    shell:
        "launch {resources.nodes} {resources.processes} {threads} pipeline_steps.train_baseline "
        "--pairs {input.pairs:q} --reference {input.reference:q} "
        "--checkpoint {output.checkpoint:q} --history {output.history:q} "
        "--method {wildcards.method} --seed {wildcards.seed} "
        "--threads {threads} --log-file {log:q} --settings {params.settings:q}"


rule build_memory_bank_job:
    input:
        pairs=PAIRS,
        reference=REFERENCE_CHECKPOINT,
    output:
        bank=f"{ROOT}/build_memory_bank/{CELL}/bank.parquet",
        report=f"{ROOT}/build_memory_bank/{CELL}/report.json",
    params:
        settings=settings("build_memory_bank", "extract_features", "results_dir"),
    log:
        f"{ROOT}/logs/build_memory_bank/{CELL}.log",
    benchmark:
        f"{ROOT}/benchmarks/build_memory_bank/{CELL}.tsv"
    threads: max(8, 1 + CFG.extract_features.workers)
    resources:
        gpu=1,
        tasks_per_gpu=0,
        **bank_memory(),
    conda:
        "../../envs/environment.yaml"
    message:
        "{wildcards.method}: building the memory bank (seed {wildcards.seed})"
    shell:
        "python -m pipeline_steps.build_memory_bank --pairs {input.pairs:q} --reference {input.reference:q} "
        "--bank {output.bank:q} --report {output.report:q} --method {wildcards.method} --seed {wildcards.seed} "
        "--threads {threads} --log-file {log:q} --settings {params.settings:q}"


rule train_npc_job:
    input:
        pairs=PAIRS,
        reference=REFERENCE_CHECKPOINT,
        bank=rules.build_memory_bank_job.output.bank,
    output:
        checkpoint=directory(f"{ROOT}/train_npc/{CELL}/checkpoint"),
        history=f"{ROOT}/train_npc/{CELL}/history.parquet",
    params:
        settings=settings("model", "train_npc"),
        architecture=architecture,
    log:
        f"{ROOT}/logs/train_npc/{CELL}.log",
    benchmark:
        f"{ROOT}/benchmarks/train_npc/{CELL}.tsv"
    resources:
        nodes=1,
        processes=1,
        gpu=1,
        tasks_per_gpu=0,
        **training_memory("train_npc"),
    conda:
        "../../envs/environment.yaml"
    message:
        "Training {wildcards.method} from its memory bank (seed {wildcards.seed})"
    shell:
        "launch {resources.nodes} {resources.processes} {threads} pipeline_steps.train_npc "
        "--pairs {input.pairs:q} --reference {input.reference:q} --bank {input.bank:q} "
        "--checkpoint {output.checkpoint:q} --history {output.history:q} "
        "--method {wildcards.method} --seed {wildcards.seed} "
        "--threads {threads} --log-file {log:q} --settings {params.settings:q}"
