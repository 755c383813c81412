"""What a process imported, and how much of its time that took. Python loads this at its start, before anything else.

With this folder on PYTHONPATH and STARTUP_LOG naming a folder, every process that ends by itself leaves a JSON file
there: its command line, its CPU seconds, those of its start and of all imports, its peak memory, and the third-party
packages that it had loaded. It imports nothing that every Python process does not have.
"""

import atexit
import builtins
import json
import os
import resource
import sys
import time

_import, _depth, _seconds = builtins.__import__, 0, 0.0


def _timed(*arguments, **named):
    global _depth, _seconds
    if _depth:
        return _import(*arguments, **named)
    _depth, started = 1, time.process_time()
    try:
        return _import(*arguments, **named)
    finally:
        _depth, _seconds = 0, _seconds + time.process_time() - started


def _leave(folder, process, before):
    if os.getpid() != process:  # a fork of it
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    packages = {name.partition(".")[0] for name, module in list(sys.modules.items()) if module is not None}
    packages |= {"torch._dynamo"} & sys.modules.keys()  # the compiler, as much again as torch itself
    told = {
        "command": sys.orig_argv,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "import_seconds": before + _seconds,
        "peak_mib": used.ru_maxrss / 1024,
        "packages": sorted(packages - set(sys.stdlib_module_names) - {"__main__", "sitecustomize"}),
    }
    path = f"{folder}/{process}"
    with open(path, "w", encoding="utf-8") as stream:  # noqa: PTH123  without pathlib
        json.dump(told, stream)
    os.replace(path, f"{path}.json")  # noqa: PTH105  some end after the command that started them


if os.environ.get("STARTUP_LOG"):
    builtins.__import__ = _timed
    atexit.register(_leave, os.environ["STARTUP_LOG"], os.getpid(), time.process_time())
