# What is different on a cluster: memory that jobs ask for, jobs that an earlier run left, the bill of a dry run.
import atexit
import re
import subprocess
import sys

from pipeline_steps.core.cost import bank_memory_mib, features_memory_mib, training_memory_mib
from pipeline_steps.core.slurm import job_prefix, wait_for_left_jobs

ASKED = ("slurm_partition", "slurm_account", "nodes", "gres", "gpu", "mem_mb", "constraint", "qos", "slurm_extra")
# Whether a profile for a cluster is used: it says where jobs go. What jobs ask for matters to the driver alone.
ON_CLUSTER = "slurm_partition" in (workflow.resource_settings.default_resources or {})


def once_submitting(targets):
    """The inputs of a target: `targets`, once no jobs of an earlier run are left that would make them twice."""
    return lambda wildcards: settle_queue() or targets


@functools.cache
def settle_queue():
    """On Slurm: name the jobs by their experiment, and wait for those that an earlier run of it left in the queue."""
    if workflow.is_main_process and hasattr(workflow.executor_settings, "jobname_prefix"):
        prefix = workflow.executor_settings.jobname_prefix or job_prefix(CFG.experiment)
        workflow.executor_settings.jobname_prefix = prefix
        wait_for_left_jobs(prefix, logger.warning)


def show_bill():
    """After a dry run: what its jobs would cost, counted in a process of its own."""
    if not workflow.dryrun or workflow.dag is None:
        return
    jobs = [
        {
            "stage": re.sub(r"(_\d+)?_job$", "", job.rule.name),
            "method": job.wildcards_dict.get("method"),
            "dataset": job.wildcards_dict.get("dataset"),
            "rule": job.rule.name,
            "gpus": gpus_of(job.resources),
            "runtime": job.resources.get("runtime", 0),
            "checkpoints": len(job.output),
            "threads": job.threads,
            "together": grouped(job.rule),
            "asks": {name: job.resources.get(name) for name in ASKED if job.resources.get(name)},
        }
        for job in workflow.dag.jobs
        if job.output and workflow.dag.finished(job)  # as far as a dry run goes
    ]
    first_look = getattr(workflow.executor_settings, "init_seconds_before_status_checks", None)
    status_command = getattr(workflow.executor_settings, "status_command", None)
    told = json.dumps({"config": config, "jobs": jobs, "first_look": first_look, "status_command": status_command})
    subprocess.run([sys.executable, "-m", "pipeline_steps.show_bill"], input=told, text=True, cwd=workflow.basedir)


def grouped(rule):
    """How many jobs of a rule one job of Slurm may hold, which asks for the sum."""
    groups = workflow.group_settings
    return int(groups.group_components.get(groups.overwrite_groups.get(rule.name), 1))


def training_memory(*sections):
    """`mem_mb` on a machine of a cluster, from the model, the batch and the loader; more with every attempt."""

    def needed(wildcards, threads, attempt):
        config = config_of(wildcards)
        model = counted(config.model.architecture)
        return attempt * max(
            training_memory_mib(getattr(config, section).training, model, threads) for section in sections
        )

    return {"mem_mb": needed} if ON_CLUSTER and workflow.is_main_process else {}


def features_memory(checkpoints):
    """The same for a job that embeds with so many checkpoints."""

    def needed(wildcards, attempt):
        return attempt * features_memory_mib(CFG.extract_features, counted(CFG.model.architecture), checkpoints)

    return {"mem_mb": needed} if ON_CLUSTER and workflow.is_main_process else {}


def bank_memory():
    """The same for a memory bank: features, and the embeddings of all pairs."""

    def needed(wildcards, input, attempt):
        model = counted(config_of(wildcards).model.architecture)
        return attempt * bank_memory_mib(CFG.extract_features, model, input.size_mb)

    return {"mem_mb": needed} if ON_CLUSTER and workflow.is_main_process else {}


def download_memory():
    """The same for a job that downloads: the list, and a process's pictures in flight."""

    def needed(wildcards, input, attempt):
        return attempt * int(1000 + 3 * input.size_mb + 600 * CFG.download_images.processes)

    return {"mem_mb": needed} if ON_CLUSTER and workflow.is_main_process else {}


def gpus_of(resources):
    """GPUs that a job asks for, on all of its machines."""
    gres = re.fullmatch(r"gpu:(?:\w+:)?(\d+)", str(resources.get("gres", "")))
    return int(gres[1]) * resources.get("nodes", 1) if gres else resources.get("gpu", 0)


if ON_CLUSTER and workflow.is_main_process:
    atexit.register(show_bill)
