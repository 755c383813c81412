"""Python with its imports done: what starts through this is a fork of one process, and starts at once.

Most of what a short step, a dry run or a job of Slurm takes is imports, again and again. A `WarmPython` is a process
that has made them, and a folder with `python`, `torchrun` and `snakemake`. Whoever runs one of these runs a client,
which stands for a fork of that process: the fork has the client's arguments, folder, environment, streams and limits;
it and what it starts get the signals that the client gets, and die when the client is killed; the client ends as the
fork does. What a process loads by itself is not seen in this way, nor how much memory it needs.

multiprocessing's forkserver forks for Python alone; Slurm, Snakemake and torchrun start a program. Linux only.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import inspect
import json
import os
import resource
import runpy
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import types
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from tests.unit.paths import REPOSITORY

MODULES = (
    "snakemake.cli", "snakemake.dag", "snakemake.workflow",
    "snakemake_executor_plugin_slurm", "snakemake_executor_plugin_slurm_jobstep",
    "torch._dynamo", "torch.optim", "torch.distributed.run", "pipeline_steps.models.clip", "sklearn.linear_model",
    "mlflow", "sqlalchemy.dialects.sqlite", "matplotlib.pyplot", "scipy.stats", "img2dataset",
    "smart_open", "pipeline_steps.core.study", "pipeline_steps.core.cost", "pipeline_steps.check_cluster",
)  # fmt: skip
FOLDER, UNTIL = "WARM_PYTHON", "WARM_PYTHON_UNTIL"
COMMANDS = {"torchrun": ["torch.distributed.run"], "snakemake": ["snakemake"]}
LIMITS = [getattr(resource, name) for name in ("RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_CORE")]
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT)

CLIENT = f"""#!{sys.executable} -SsE
import json, os, resource, signal, socket, sys
forwarded = {[int(number) for number in _FORWARDED]}
signal.pthread_sigmask(signal.SIG_BLOCK, forwarded)
folder, name = os.path.split(__file__)
words = {COMMANDS}.get(name, []) + sys.argv[1:]
if name == "python":
    given, words = words, words[words[:1] == ["-u"]:]
    if words[:1] == ["-m"]:
        words = words[1:]
    elif words[:1] != ["-c"]:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, forwarded)
        os.execv({sys.executable!r}, [{sys.executable!r}, *given])
limits = [resource.getrlimit(limit) for limit in {LIMITS}]
server = socket.socket(socket.AF_UNIX)
server.connect(folder + "/socket")
told = json.dumps([words, os.getcwd(), dict(os.environ), limits]).encode()
socket.send_fds(server, [len(told).to_bytes(4, "big")], [0, 1, 2])
server.sendall(told)
worker = int(server.recv(16))
def forward(number, frame):
    try:
        os.killpg(worker, number)
    except ProcessLookupError:
        pass
for number in forwarded:
    signal.signal(number, forward)
signal.pthread_sigmask(signal.SIG_UNBLOCK, forwarded)
status = int(server.recv(16) or b"1")
if status < 0:
    signal.pthread_sigmask(signal.SIG_BLOCK, forwarded)
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, forwarded)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


class WarmPython:
    """A folder of clients, and the server behind them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, until: int) -> None:
        """Start the server, which ends with the process `until` and removes the folder."""
        for name in ("python", *COMMANDS):
            (self.folder / name).write_text(CLIENT)
            (self.folder / name).chmod(0o755)
        command = [sys.executable, "-m", __name__, str(self.folder), str(until)]
        with (self.folder / "log").open("w") as log:
            server = subprocess.Popen(
                command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                start_new_session=True, env=os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"},
            )  # fmt: skip
        assert server.stdout
        assert server.stdout.readline() == b"ready\n", (self.folder / "log").read_text()

    @property
    def python(self) -> str:
        """In place of `sys.executable`."""
        return str(self.folder / "python")

    def environment(self, before: dict[str, str]) -> dict[str, str]:
        """An environment in which `python`, `torchrun` and `snakemake` start at once, and what they start too."""
        return before | {"PATH": f"{self.folder}{os.pathsep}{before['PATH']}"}

    def worker_of(self, client: int) -> int:
        """The process for which a client stands."""
        return int((self.folder / str(client)).readlink().name)


def warm_python() -> WarmPython:
    """That of these tests, which the first that wants it starts: one for all processes of pytest-xdist."""
    found = WarmPython(Path(os.environ[FOLDER]))
    with FileLock(found.folder / "lock"):
        if not (found.folder / "socket").exists():
            found.start(int(os.environ[UNTIL]))
    return found


def name_warm_python() -> None:
    """Name its folder to this process and to those that it starts: they share it, and it ends with this process."""
    if FOLDER not in os.environ:
        os.environ |= {FOLDER: tempfile.mkdtemp(prefix="warm"), UNTIL: str(os.getpid())}
        atexit.register(shutil.rmtree, os.environ[FOLDER], ignore_errors=True)


def _serve(folder: Path, until: int) -> None:
    """Fork for every caller, and tell it how its fork ended; until the process `until` ends."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen(64)
    waiting = selectors.DefaultSelector()
    waiting.register(os.pidfd_open(until), selectors.EVENT_READ, None)
    waiting.register(listener, selectors.EVENT_READ, lambda: _answer(listener.accept()[0], folder, waiting))
    print("ready", flush=True)
    while True:
        for key, _ in waiting.select():
            if key.data is None:
                shutil.rmtree(folder, ignore_errors=True)
                return
            if waiting.get_map().get(key.fd) is key:  # else what was told before it in this turn ended it
                key.data()


def _answer(caller: socket.socket, folder: Path, waiting: selectors.BaseSelector) -> None:
    """Have a fork do what the caller asks for, and tell the caller its id."""
    size, streams, _, _ = socket.recv_fds(caller, 4, 3)
    told = b""
    while len(told) < int.from_bytes(size, "big"):
        told += caller.recv(2**20)
    worker = os.fork()
    if not worker:
        os.setsid()
        for key in waiting.get_map().values():
            os.close(key.fd)
        caller.close()
        _become(folder, streams, *json.loads(told))
    for stream in streams:
        os.close(stream)
    client = struct.unpack("3i", caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    stands_for = folder / str(client)
    stands_for.unlink(missing_ok=True)
    stands_for.symlink_to(str(worker))
    ended = os.pidfd_open(worker)

    def end() -> None:
        with suppress(ProcessLookupError):
            os.killpg(worker, signal.SIGKILL)  # it has ended, or its caller has
        status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
        stands_for.unlink(missing_ok=True)
        with suppress(OSError):
            caller.sendall(str(status).encode())
        waiting.unregister(ended)
        waiting.unregister(caller)
        os.close(ended)
        caller.close()

    waiting.register(ended, selectors.EVENT_READ, end)
    waiting.register(caller, selectors.EVENT_READ, end)
    with suppress(OSError):
        caller.sendall(str(worker).encode())


def _become(
    folder: Path, streams: list[int], words: list[str], place: str, environment: dict[str, str],
    limits: list[tuple[int, int]],
) -> None:  # fmt: skip
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    for limit, values in zip(LIMITS, limits, strict=True):
        resource.setrlimit(limit, tuple(values))
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment | {"PYTHON_EXEC": str(folder / "python")})  # for torchrun
    sys.argv = words
    # torchrun asks for its stack again and again: seconds, as every module is looked through for an unknown file.
    inspect.modulesbyfile |= {str(Path(name).absolute()): "runpy" for name in ("<frozen runpy>", __file__)}
    try:
        if words[0] == "-c":  # a worker of pytest-xdist, whose tests mean the real Python, unless they are `warm`
            sys.argv = words[:1] + words[2:]
            sys.modules["__main__"] = main = types.ModuleType("__main__")
            exec(words[1], main.__dict__)
        else:
            sys.executable = str(folder / "python")
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        code: object = 0
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    # As Python ends, but for taking all modules apart, for which every page of them would be copied.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code or 0) & 255)


if __name__ == "__main__":
    for module in (*MODULES, "tests.workflow.impatient_snakemake"):
        importlib.import_module(module)
    importlib.import_module("snakemake.cli").get_argument_parser()  # looks for plugins in every package
    gc.collect()
    gc.freeze()  # else every fork goes through all of it, and so copies it
    _serve(Path(sys.argv[1]), int(sys.argv[2]))
