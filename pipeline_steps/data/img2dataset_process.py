"""img2dataset in a process of its own: `python -m pipeline_steps.data.img2dataset_process JSON FIRST_SHARD LIMITS`.

img2dataset replaces the signal handlers of its process, prints without end and starts its workers by importing the
main module again, so it gets a process that is made for it. Its downloads go through urllib's opener, which here has
limits.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import urllib.request
from types import ModuleType

from pipeline_steps.data.bounded_http import Limits, bounded_opener
from pipeline_steps.data.picture_limits import too_many_scans

if __name__ in ("__main__", "__mp_main__"):
    # Seconds in every worker, for nothing: webdataset, which img2dataset imports, loads torch where it can, and
    # img2dataset's logger loads wandb, which is not asked for; albumentations is for resizing alone.
    sys.modules["torch"] = None  # type: ignore[assignment]
    sys.modules["wandb"] = ModuleType("wandb")
    if json.loads(sys.argv[1])["resize_mode"] == "no":
        sys.modules["albumentations"] = ModuleType("albumentations")
    urllib.request.install_opener(bounded_opener(Limits(**json.loads(sys.argv[3]), judge=too_many_scans)))


def end_with_parent() -> None:
    """End this process group at once when the parent is gone, which holds the other end of the standard input.

    Else it would write on, and note every URL of a server that died with the parent as refused.
    """

    def watch() -> None:
        os.read(0, 1)  # nothing is ever written, so this ends with the parent
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def main() -> None:
    """Call img2dataset's `download` with the keyword arguments given as one JSON object; number shards from the second.

    Its Reader takes the first shard's number, which `download` itself lets nobody say.
    """
    end_with_parent()
    arguments, first_shard = json.loads(sys.argv[1]), int(sys.argv[2])
    driver = importlib.import_module("img2dataset.main")  # takes seconds, and the workers import it themselves
    reader = driver.Reader
    driver.Reader = lambda *given: reader(*given[:-1], first_shard)  # type: ignore[attr-defined]
    driver.download(**arguments)


if __name__ == "__main__":
    main()
