"""A real Slurm on this machine: munge, one controller and several slurmd, in a folder and on ports of its own."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.warm_python import warm_python
from tests.workflow.snakemake_runs import user_environment

COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "sinfo", "scancel", "sacct", "sacctmgr")
PROGRAMS = ("munged", "slurmctld", "slurmd", *COMMANDS)
NODES = ("n1", "n2")
_SBIN = f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/usr/local/sbin"


def require_slurm() -> None:
    """Skip where Slurm is not installed, and fail where CI says that it must be."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_SBIN) is None]
    if absent:
        reason = f"Slurm is not installed ({', '.join(absent)}): apt-get install slurm-wlm munge"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@dataclass
class Cluster:
    """A running cluster: its folder, its environment, and its daemons by name."""

    folder: Path
    environment: dict[str, str]
    daemons: dict[str, psutil.Process]

    def ask(self, *command: str) -> str:
        """What a command of Slurm prints."""
        ran = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == 0, f"{command}: {ran.stderr}"
        return ran.stdout.strip()

    def jobs(self, *states: str) -> dict[str, dict[str, str]]:
        """All jobs that the controller still knows, by id: state, comment, nodes, partition, folder."""
        lines = self.ask("squeue", "--states=all", "--noheader", "--format=%i|%T|%k|%N|%P|%Z").splitlines()
        names = ("id", "state", "comment", "nodes", "partition", "folder")
        rows = [dict(zip(names, line.split("|"), strict=True)) for line in lines]
        return {row["id"]: row for row in rows if not states or row["state"] in states}

    def show(self, job: str) -> dict[str, str]:
        """`scontrol show job` as a mapping."""
        pairs = (word.split("=", 1) for word in self.ask("scontrol", "show", "job", job).split() if "=" in word)
        return {pair[0]: pair[1] for pair in pairs}

    def kill_daemon(self, node: str) -> None:
        """A slurmd that dies, while the jobs that it started live on."""
        _kill(self.daemons[node])

    def kill_node(self, node: str) -> None:
        """A machine that dies: its slurmd and everything that runs under it, at once."""
        for victim in [self.daemons[node], *_under(self.folder, node)]:
            _kill(victim)

    def start_node(self, node: str) -> None:
        """Start a node's slurmd and wait until it takes jobs."""
        (self.folder / f"{node}.pid").unlink(missing_ok=True)
        command = ["slurmd", "-N", node, "-f", str(self.folder / "slurm.conf")]
        subprocess.run(command, env=self.environment, check=True, timeout=60)
        self.daemons[node] = _daemon(self.folder / f"{node}.pid")

    def wait(self, fact: Callable[[], object], what: str, seconds: float = 120, every: float = 0.2) -> None:
        """Wait until something holds."""
        deadline = time.monotonic() + seconds
        while not fact():
            assert time.monotonic() < deadline, (
                f"after {seconds:.0f} s: not {what}\n{self.ask('squeue', '--states=all')}"
            )
            time.sleep(every)

    def node_is(self, node: str, state: str) -> bool:
        """Whether a node is in a state."""
        return self.ask("sinfo", "-N", f"--nodes={node}", "--noheader", "--format=%T").startswith(state)

    def nodes_are(self, state: str) -> bool:
        """Whether every node is in a state."""
        return all(line.startswith(state) for line in self.ask("sinfo", "-N", "--noheader", "--format=%T").splitlines())


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster while the block runs. Every process that it started is ended by its id."""
    for name in ("munge", "state", "log", *(f"spool/{node}" for node in NODES)):
        (folder / name).mkdir(parents=True)
    _write_configuration(folder)
    environment = user_environment() | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path(folder)}
    cluster = Cluster(folder, environment, {})
    try:
        _start_munge(cluster)
        subprocess.run(["slurmctld", "-f", folder / "slurm.conf"], env=environment, check=True, timeout=60)
        cluster.daemons["slurmctld"] = _daemon(folder / "slurmctld.pid")
        for node in NODES:
            cluster.start_node(node)
        cluster.wait(lambda: cluster.nodes_are("idle"), "nodes ready")
        yield cluster
    finally:
        for name in NODES:
            for left in _under(folder, name):
                _kill(left)
        for daemon in cluster.daemons.values():
            _kill(daemon)


def _path(folder: Path) -> str:
    """A search path on which the commands know this cluster.

    Elsewhere it stands in /etc/slurm; here only SLURM_CONF says it, which the executor plugin removes inside a job.
    """
    commands = folder / "bin"
    commands.mkdir()
    for name in COMMANDS:
        found = shutil.which(name, path=_SBIN)
        (commands / name).write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {found} "$@"\n')
        (commands / name).chmod(0o755)
    warm = warm_python().environment(user_environment())["PATH"]
    return os.pathsep.join([str(commands), warm, "/usr/sbin"])


def _start_munge(cluster: Cluster) -> None:
    place = cluster.folder / "munge"
    (place / "key").write_bytes(secrets.token_bytes(128))
    (place / "key").chmod(0o400)
    place.chmod(0o700)
    files = [
        f"--{option}={place / name}"
        for option, name in (
            ("socket", "socket"),
            ("key-file", "key"),
            ("pid-file", "pid"),
            ("log-file", "log"),
            ("seed-file", "seed"),
        )
    ]
    subprocess.run(["munged", "--force", *files], env=cluster.environment, check=True, timeout=60)
    cluster.daemons["munged"] = _daemon(place / "pid")


def _daemon(pid_file: Path) -> psutil.Process:
    deadline = time.monotonic() + 30
    while not (pid_file.is_file() and pid_file.read_text().strip()):
        assert time.monotonic() < deadline, f"{pid_file} did not appear"
        time.sleep(0.05)
    return psutil.Process(int(pid_file.read_text()))


def _under(folder: Path, node: str) -> list[psutil.Process]:
    """The step daemons of a node and what runs under them, known by the environment that jobs have."""
    found = []
    for process in psutil.process_iter():
        try:
            if not process.name().startswith("slurmstepd"):
                continue
            children = process.children(recursive=True)
            environments = [child.environ() for child in children]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if any(
            one.get("SLURMD_NODENAME") == node and str(folder / "bin") in one.get("PATH", "") for one in environments
        ):
            found += [process, *children]
    return found


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
        process.wait(10)
    except (psutil.NoSuchProcess, psutil.TimeoutExpired):
        pass


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _write_configuration(folder: Path) -> None:
    host, user = socket.gethostname().split(".")[0], getpass.getuser()
    controller, *ports = _free_ports(1 + len(NODES))
    lines = {
        "ClusterName": "test", "SlurmctldHost": f"{host}(127.0.0.1)", "SlurmctldPort": controller,
        "SlurmUser": user, "SlurmdUser": user,
        "AuthType": "auth/munge", "AuthInfo": f"socket={folder}/munge/socket,cred_expire=10", "CredType": "cred/munge",
        "MpiDefault": "none", "ProctrackType": "proctrack/linuxproc", "TaskPlugin": "task/none",
        "SelectType": "select/cons_tres", "SelectTypeParameters": "CR_CPU_Memory",
        "JobAcctGatherType": "jobacct_gather/linux", "JobAcctGatherFrequency": "1",
        "AccountingStorageType": "accounting_storage/none",
        "StateSaveLocation": f"{folder}/state", "SlurmdSpoolDir": f"{folder}/spool/%n",
        "SlurmdPidFile": f"{folder}/%n.pid", "SlurmctldPidFile": f"{folder}/slurmctld.pid",
        "SlurmctldLogFile": f"{folder}/log/slurmctld.log", "SlurmdLogFile": f"{folder}/log/%n.log",
        "SlurmctldTimeout": 10, "SlurmdTimeout": 10, "ReturnToService": 2, "SlurmdParameters": "config_overrides",
        "PreemptType": "preempt/partition_prio", "PreemptMode": "REQUEUE",
        "GresTypes": "gpu", "KillWait": 20, "MinJobAge": 3600, "InactiveLimit": 0,
        "SchedulerParameters": "sched_interval=2,batch_sched_delay=0,sched_min_interval=100000",
    }  # fmt: skip
    text = [f"{key}={value}" for key, value in lines.items()]
    for node, port in zip(NODES, ports, strict=True):
        text.append(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=16 RealMemory=64000 Gres=gpu:2"
        )
    members = ",".join(NODES)
    text.append(f"PartitionName=gpu Nodes={members} MaxTime=2880 GraceTime=10 PriorityTier=1 State=UP")
    text.append(f"PartitionName=urgent Nodes={members} MaxTime=2880 PriorityTier=10 State=UP")
    text.append(f"PartitionName=cpu Nodes={members} Default=YES MaxTime=2880 State=UP")
    (folder / "slurm.conf").write_text("\n".join(text) + "\n")
    devices = "\n".join(f"NodeName={node} Name=gpu File=/dev/zero,/dev/null" for node in NODES)
    (folder / "gres.conf").write_text(devices + "\n")
