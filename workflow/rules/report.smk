# Tables, figures and the two sentences that say what came out.


rule make_tables:
    input:
        scores=[path for stage in EVALUATIONS for path in STAGE_CELLS[stage]],
        features=STAGE_CELLS["extract_features"],
        histories=HISTORIES,
    output:
        tables=report(directory(f"{ROOT}/tables"), patterns=["{table}.csv"], category="Tables",
                      caption="../report/tables.rst"),
        figures=report(directory(f"{ROOT}/figures"), patterns=["{figure}.png"], category="Figures",
                       caption="../report/figures.rst"),
        findings=f"{ROOT}/findings.md",
    params:
        settings=settings("make_tables", "methods", "seeds"),
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
        "python -m pipeline_steps.make_tables --results {params.results:q} --tables {output.tables:q} "
        "--figures {output.figures:q} --findings {output.findings:q} "
        "--threads {threads} --log {log:q} --settings {params.settings:q}"
