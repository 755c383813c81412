"""Run in a job of the cluster by check_cluster: says, as JSON, what the pipeline's steps would find there.

`python -m pipeline_steps.cluster.probe TOKEN ANSWER`: TOKEN is a file that the login node wrote, ANSWER one to write.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from typing import Any


def found_here(token: Path) -> dict[str, Any]:
    """Host, Python, whether the token is there, torch and its GPUs."""
    import torch  # seconds, and an error that is part of the answer

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "host": socket.gethostname(),
        "python": sys.version.split()[0],
        "token": token.read_text(encoding="utf-8") if token.is_file() else None,
        "torch": torch.__version__,
        "gpus": gpus,
        "gpu_names": [torch.cuda.get_device_name(number) for number in range(gpus)],
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }


def main() -> None:
    """Write the answer; an error is one, too."""
    token, answer = map(Path, sys.argv[1:3])
    try:
        told = found_here(token)
    except Exception as error:  # noqa: BLE001 - whatever it is, the login node is to read it
        told = {"host": socket.gethostname(), "error": f"{type(error).__name__}: {error}"}
    partial = answer.with_suffix(".partial")
    partial.write_text(json.dumps(told), encoding="utf-8")
    partial.replace(answer)


if __name__ == "__main__":
    main()
