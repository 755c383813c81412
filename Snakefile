# The whole pipeline on one screen: configuration, path grammar, rules, and a target for every stage.
#   snakemake                 everything          snakemake -n              what would run, and why
#   snakemake unlearn         up to one stage     --configfile config/...   another experiment
from snakemake.utils import min_version

min_version("9.0")


configfile: "config/config.yaml"


include: "workflow/common.smk"
include: "workflow/cluster.smk"


wildcard_constraints:
    method="|".join(METHODS),
    seed=r"\d+",
    dataset=r"[\w.-]+",
    experiment="|".join(EXPERIMENTS),


include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


if CFG.classifiers:

    include: "workflow/rules/labels.smk"


# `snakemake <stage>`: every cell of a stage that runs once per method and seed.
for stage, targets in STAGE_CELLS.items():

    rule:
        name:
            stage
        input:
            once_submitting(everywhere(targets)),


rule all:
    default_target: True
    input:
        once_submitting(RESULTS),


# MLflow learns of the runs while they run, from their records, by a process of its own.
onstart:
    if not ON_CLUSTER:  # there Snakemake's own answer to Ctrl-C is to cancel the jobs, which keep their state too
        end_steps_on_interrupt(logger.warning)
    followers.append(Follower(Path(CFG.results_dir), CFG.tracking.uri))


onsuccess:
    followers.pop().finish()


onerror:
    followers.pop().finish()
