"""Python with its imports done: what starts through this is a fork of one process, and starts at once.

Most of what a short step or a dry run takes is imports, again and again. `WarmPython` keeps a process that has made
them; each of its `python -m ...` is a fork of it, with the caller's arguments, folder, environment and streams. It is
for work of which only the outcome counts: who waits is another process than the one that works, so that a signal to it
goes nowhere, and what a process loads by itself is not seen.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

CLIENT = f"""#!{sys.executable} -SsE
import json, os, socket, sys
if sys.argv[1:2] != ["-m"]:
    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect(os.environ["WARM_PYTHON"])
    told = json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(told).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(told)
    sys.exit(int(server.recv(16) or b"1"))
"""


class WarmPython:
    """A running server; it ends with this process, whose end of its standard input the system closes."""

    def __init__(self, *modules: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="warm"))
        client = self.folder / "python"
        client.write_text(CLIENT)
        client.chmod(0o755)
        command = [sys.executable, "-m", __name__, str(self.folder / "socket"), *modules]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout
        assert self._process.stdout.readline() == b"ready\n"

    def environment(self, before: dict[str, str]) -> dict[str, str]:
        """An environment in which `python` starts at once."""
        path = f"{self.folder}{os.pathsep}{before['PATH']}"
        return before | {"PATH": path, "WARM_PYTHON": str(self.folder / "socket")}


def _serve(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in ready:
                shutil.rmtree(Path(path).parent)
                return
            caller, _ = listener.accept()
            if not os.fork():
                listener.close()
                _answer(caller)
            caller.close()


def _answer(caller: socket.socket) -> None:
    """In a fork: do what the caller asks for in another one, and tell it the exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(caller, 4, 3)
    told = caller.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
    child = os.fork()
    if not child:
        caller.close()
        _become(streams, *json.loads(told))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    caller.sendall(str(status if status >= 0 else 128 - status).encode())
    os._exit(0)


def _become(streams: list[int], arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    for name in sys.argv[2:]:
        importlib.import_module(name)
    _serve(sys.argv[1])
