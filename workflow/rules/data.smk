# Pictures and captions: download, then the manifest that training reads.


scattergather:
    download_images=CFG.download_images.jobs,


if not OWN_PAIRS:

    # The whole list, or one of its parts.
    rule:
        name:
            "download_images_job" if SCATTERED else "download_images"
        input:
            once_submitting(CFG.download_images.url_list or CFG.download_images.embedded_parquet),
        output:
            images=directory(f"{SHARED_ROOT}/{PART}/images"),
            report=f"{SHARED_ROOT}/{PART}/report.json",
        params:
            settings=part_settings,
            part="--part {scatteritem}" if SCATTERED else "",
        log:
            f"{SHARED_ROOT}/logs/{PART}.log",
        benchmark:
            f"{SHARED_ROOT}/benchmarks/{PART}.tsv"
        threads: CFG.download_images.processes
        resources:
            **download_memory(),
        conda:
            "../../envs/environment.yaml"
        message:
            "Downloading the pictures" + (", part {wildcards.scatteritem}" if SCATTERED else "")
        shell:
            "python -m pipeline_steps.download_images --source {input:q} {params.part} --images {output.images:q} "
            "--report {output.report:q} "
            "--threads {threads} --log-file {log:q} --settings {params.settings:q}"

    if SCATTERED:

        rule download_images:
            input:
                parts=gather.download_images(f"{SHARED_ROOT}/{PART}/images"),
                reports=gather.download_images(f"{SHARED_ROOT}/{PART}/report.json"),
            output:
                images=directory(f"{SHARED_ROOT}/download_images/images"),
                report=f"{SHARED_ROOT}/download_images/report.json",
            params:
                settings=settings("download_images"),
            log:
                f"{SHARED_ROOT}/logs/download_images.log",
            benchmark:
                f"{SHARED_ROOT}/benchmarks/download_images.tsv"
            conda:
                "../../envs/environment.yaml"
            message:
                "Bringing the parts of the download together"
            shell:
                "python -m pipeline_steps.download_images --parts {input.parts:q} --part-reports {input.reports:q} "
                "--images {output.images:q} --report {output.report:q} "
                "--threads {threads} --log-file {log:q} --settings {params.settings:q}"


rule:
    name:
        named("build_manifest")
    input:
        **{
            option: once_submitting(path)
            for option, path in (OWN_PAIRS or {"images": rules.download_images.output.images}).items()
        },
    output:
        pairs=PAIRS,
        pairs_csv=f"{ROOT}/build_manifest/pairs.csv",
        report=MANIFEST_REPORT,
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
