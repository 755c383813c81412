"""What Slurm says to what the jobs ask for. Nothing here submits a job."""

from __future__ import annotations

import getpass
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline_steps.cluster.requests import Asked, Request

_SECONDS = 60
_GRACE_SECONDS = 30
_UNLIMITED = ("UNLIMITED", "INFINITE", "NONE")


@dataclass(frozen=True)
class Finding:
    """The outcome of one check: what was found, and for a failure what can be done. `remedy` is None where all is well;
    a `warning` alone fails nothing.
    """

    check: str
    found: str
    remedy: str | None = None
    warning: bool = False

    @property
    def failed(self) -> bool:
        """Whether this stands in the way of a run."""
        return self.remedy is not None and not self.warning


def ask(*command: str) -> tuple[int, str]:
    """Exit code and output (both streams) of a command of Slurm; 127 and the reason where it cannot be started."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return 127, str(error)
    return ran.returncode, f"{ran.stdout}{ran.stderr}".strip()


def controller() -> Finding:
    """Whether Slurm answers."""
    code, told = ask("sinfo", "--version")
    if code:
        return Finding("Slurm", told, "run this on a login node, where sinfo and sbatch are; or `module load slurm`")
    up, pinged = ask("scontrol", "ping")
    if up or "is UP" not in pinged:
        return Finding("Slurm", f"{told}; {pinged}", "the controller does not answer; ask the cluster's administrators")
    return Finding("Slurm", f"{told}, {pinged.splitlines()[0]}")


def partition(name: str, minutes: int, *, trains: bool = False) -> list[Finding]:
    """Whether a partition is there and up, how long its jobs may run, and what a preemption leaves time for."""
    check = f"partition {name}"
    code, told = ask("scontrol", "show", "partition", name, "--oneliner")
    if code:
        _, names = ask("sinfo", "--noheader", "--format=%R")
        remedy = f"set it to one of {', '.join(sorted(set(names.split())))} in the profile's first block"
        return [Finding(check, "does not exist", remedy)]
    facts = dict(pair.split("=", 1) for pair in told.split() if "=" in pair)
    if facts["State"] != "UP":
        return [Finding(check, f"is {facts['State']}", "wait until it is up (sinfo), or take another in the profile")]
    limit = minutes_of(facts["MaxTime"])
    if limit is not None and minutes > limit:
        return [Finding(
            check, f"jobs ask for {minutes} minutes, and it allows {limit}",
            f"lower training_hours or hours in the profile to at most {limit // 60}; a training that needs longer is "
            "requeued at its limit and goes on",
        )]  # fmt: skip
    grace = int(facts.get("GraceTime", "0"))
    preempted = facts.get("PreemptMode", "OFF")
    if preempted == "OFF":
        return [Finding(check, f"is up, allows {facts['MaxTime']}")]
    found = f"is up, allows {facts['MaxTime']}; a preempted job has {grace} s to write its state ({preempted})"
    if trains and grace < _GRACE_SECONDS:
        remedy = "a preempted training goes on from the state it last kept: lower training.save_minutes"
        return [Finding(check, found, remedy, warning=True)]
    return [Finding(check, found)]


def minutes_of(text: str) -> int | None:
    """Minutes of Slurm's days-hours:minutes:seconds; None for no limit."""
    if text in _UNLIMITED:
        return None
    days, _, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if days:  # days-hours[:minutes[:seconds]]
        hours, minutes = (*parts, 0)[:2]
    else:  # minutes, minutes:seconds, hours:minutes:seconds
        hours, minutes = parts[:2] if len(parts) == 3 else (0, parts[0])
    return (int(days or 0) * 24 + hours) * 60 + minutes


def account(names: Iterable[str]) -> list[Finding]:
    """Whether this user has the accounts, where Slurm keeps accounts."""
    asked = sorted(set(names))
    code, told = ask("sacctmgr", "--noheader", "--parsable2", "list", "associations", f"user={getpass.getuser()}",
                     "format=account")  # fmt: skip
    if code and "accounting_storage" not in told:
        found = f"sacctmgr does not say which are yours: {told.splitlines()[-1] if told else 'no answer'}"
        remedy = "see whether the accounting database is up; without it Snakemake's executor refuses an account"
        return [Finding("account", found, remedy, warning=not asked)]
    if code:
        if not asked:
            return [Finding("account", "none is asked for, and Slurm keeps none here")]
        remedy = "leave `account` empty in the profile; Snakemake's executor refuses one that it cannot look up"
        return [Finding("account", f"{', '.join(asked)} is asked for, and Slurm keeps no accounts here", remedy)]
    known = sorted(set(told.split()))
    absent = [name for name in asked if name not in known]
    if absent:
        remedy = f"set `account` in the profile to one of {', '.join(known) or '(you have none)'}"
        return [Finding("account", f"{', '.join(absent)} is not one of yours", remedy)]
    return [Finding("account", f"{', '.join(asked) or 'Slurm chooses'} of {', '.join(known)}")]


def fits(request: Request) -> Finding:
    """Whether some machines could ever run it: `sbatch --test-only`, which submits nothing."""
    code, told = ask("sbatch", "--test-only", "--wrap=true", *request.options())
    asked = " ".join(request.options())
    if code == 0:
        return Finding(f"{request.stage} fits", asked)
    nodes = ask("sinfo", "--noheader", f"--partition={request.partition}", "--format=%D nodes of %c CPUs, %m MiB, %G")[
        1
    ]
    reason = re.sub(r"^(sbatch: )?(error: )?", "", told.splitlines()[-1]) if told else "no answer"
    remedy = (
        f"the partition has {nodes or 'no nodes'}; lower gpus, nodes or cpus_per_gpu in the profile's first block, or "
        "training.batch_size and workers, from which memory follows"
    )
    return Finding(f"{request.stage} fits", f"no: {reason} ({asked})", remedy)


def status_queries(first_look_seconds: int, status_command: str | None) -> Finding:
    """Whether finished jobs stay where the executor looks for long enough to be seen."""
    if status_command == "sacct":
        code, told = ask("sacct", "--noheader", "--starttime=now")
        remedy = "set slurm-status-command: squeue in the profile"
        return Finding("sacct", told.splitlines()[-1], remedy) if code else Finding("sacct", "keeps finished jobs")
    _, told = ask("scontrol", "show", "config")
    found = re.search(r"MinJobAge\s*=\s*(\d+)", told)
    age, needed = int(found[1]) if found else 0, 3 * first_look_seconds
    if age >= needed:
        return Finding("squeue", f"keeps finished jobs for {age} s")
    remedy = "set slurm-status-command: sacct in the profile, where there is an accounting database"
    return Finding("squeue", f"keeps finished jobs for {age} s, and {needed} are needed", remedy, warning=True)


def all_static(asked: Asked) -> list[Finding]:
    """Every check that submits nothing."""
    requests = asked.requests
    found = [controller()]
    if found[0].failed:
        return found
    longest: dict[str, int] = {}
    for request in requests:
        longest[request.partition] = max(longest.get(request.partition, 0), request.minutes)
    trains = {request.partition for request in requests if request.gres}
    partitions = {name: partition(name, minutes, trains=name in trains) for name, minutes in longest.items()}
    found += [finding for findings in partitions.values() for finding in findings]
    found += account(request.account for request in requests if request.account)
    there = {name for name, findings in partitions.items() if findings[0].found != "does not exist"}
    found += [fits(request) for request in requests if request.partition in there]
    return [*found, status_queries(asked.first_look_seconds, asked.status_command)]
