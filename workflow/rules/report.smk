# Tables, figures and the two sentences that say what came out.


rule:
    name:
        named("make_tables")
    input:
        scores=[path for stage in EVALUATIONS for path in STAGE_CELLS[stage]],
        features=STAGE_CELLS["extract_features"],
        histories=HISTORIES,
        manifest=MANIFEST_REPORT,
        overlaps=OVERLAPS,
        paper="resources/paper/tables.yaml",
    output:
        tables=report(directory(TABLES), patterns=["{table}.csv"], category="Tables",
                      caption="../report/tables.rst"),
        figures=report(directory(FIGURES), patterns=["{figure}.png"], category="Figures",
                       caption="../report/figures.rst"),
        findings=FINDINGS,
    params:
        settings=settings("make_tables", "methods", "seeds", "unlearn", "import_reference"),
        results=subpath(output.tables, parent=True),
    log:
        f"{ROOT}/logs/make_tables.log",
    benchmark:
        f"{ROOT}/benchmarks/make_tables.tsv"
    conda:
        "../../envs/environment.yaml"
    message:
        "Making tables and figures"
    shell:
        "python -m pipeline_steps.make_tables --results {params.results:q} --paper {input.paper:q} "
        "--overlaps {input.overlaps:q} --tables {output.tables:q} "
        "--figures {output.figures:q} --findings {output.findings:q} "
        "--threads {threads} --log-file {log:q} --settings {params.settings:q}"


rule export_model_job:
    input:
        checkpoint=checkpoint_of,
        report=MANIFEST_REPORT,
        zeroshot=rules.eval_zeroshot_job.output.scores,
        probe=rules.eval_probe_job.output.scores,
        retrieval=rules.eval_retrieval_job.output.scores,
    output:
        model=directory(f"{ROOT}/export_model/{CELL}/model"),
    params:
        settings=settings(
            "download_images", "build_manifest", "model", "import_reference", "train_reference", "learn_prompt",
            "unlearn", "train_baseline", "build_memory_bank", "train_npc",
        ),
    log:
        f"{ROOT}/logs/export_model/{CELL}.log",
    benchmark:
        f"{ROOT}/benchmarks/export_model/{CELL}.tsv"
    conda:
        "../../envs/environment.yaml"
    message:
        "Writing the model card of {wildcards.method} (seed {wildcards.seed})"
    shell:
        "python -m pipeline_steps.export_model --checkpoint {input.checkpoint:q} --report {input.report:q} "
        "--zeroshot {input.zeroshot:q} --probe {input.probe:q} --retrieval {input.retrieval:q} "
        "--model {output.model:q} --method {wildcards.method} --seed {wildcards.seed} "
        "--threads {threads} --log-file {log:q} --settings {params.settings:q}"


if STUDY:

    rule compare_experiments:
        input:
            made=everywhere([TABLES]),
            published=CFG.compare_experiments.published or [],
        output:
            tables=report(directory(f"{SHARED_ROOT}/tables"), patterns=["{table}.csv"], category="Study",
                          caption="../report/tables.rst"),
            figures=report(directory(f"{SHARED_ROOT}/figures"), patterns=["{figure}.png"], category="Study",
                           caption="../report/figures.rst"),
        params:
            settings=settings("compare_experiments", "build_manifest", "train_reference"),
        log:
            f"{SHARED_ROOT}/logs/compare_experiments.log",
        benchmark:
            f"{SHARED_ROOT}/benchmarks/compare_experiments.tsv"
        conda:
            "../../envs/environment.yaml"
        message:
            "Comparing the experiments of the study"
        shell:
            "python -m pipeline_steps.compare_experiments --made {input.made:q} --tables {output.tables:q} "
            "--figures {output.figures:q} "
            "--threads {threads} --log-file {log:q} --settings {params.settings:q}"
