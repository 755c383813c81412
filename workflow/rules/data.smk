# Pictures and captions: download, then the manifest that training reads.


if not OWN_PAIRS:

    rule download_images:
        input:
            CFG.download_images.url_list or CFG.download_images.embedded_parquet,
        output:
            images=directory(f"{ROOT}/download_images/images"),
            report=f"{ROOT}/download_images/report.json",
        params:
            settings=settings("download_images"),
        log:
            f"{ROOT}/logs/download_images.log",
        benchmark:
            f"{ROOT}/benchmarks/download_images.tsv"
        conda:
            "../../envs/environment.yaml"
        message:
            "Downloading the pictures"
        shell:
            "python -m pipeline_steps.download_images --source {input:q} --images {output.images:q} "
            "--report {output.report:q} "
            "--threads {threads} --log-file {log:q} --settings {params.settings:q}"


rule build_manifest:
    input:
        **{
            option: once_submitting(path)
            for option, path in (OWN_PAIRS or {"images": rules.download_images.output.images}).items()
        },
    output:
        pairs=f"{ROOT}/build_manifest/pairs.parquet",
        pairs_csv=f"{ROOT}/build_manifest/pairs.csv",
        report=f"{ROOT}/build_manifest/report.json",
    params:
        settings=settings("build_manifest"),
        source=f"--{next(iter(OWN_PAIRS), 'images')}",
    log:
        f"{ROOT}/logs/build_manifest.log",
    benchmark:
        f"{ROOT}/benchmarks/build_manifest.tsv"
    conda:
        "../../envs/environment.yaml"
    message:
        "Building the manifest of pairs"
    shell:
        "python -m pipeline_steps.build_manifest {params.source} {input:q} --pairs {output.pairs:q} "
        "--pairs-csv {output.pairs_csv:q} --report {output.report:q} "
        "--threads {threads} --log-file {log:q} --settings {params.settings:q}"
