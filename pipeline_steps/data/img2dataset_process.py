"""img2dataset in a process of its own: `python -m pipeline_steps.data.img2dataset_process JSON`.

img2dataset replaces the signal handlers of its process, prints without end and starts its workers by importing the
main module again, so it gets a process that is made for it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

if __name__ in ("__main__", "__mp_main__"):
    # webdataset, which img2dataset imports, loads torch where it can and does not need it: seconds in every worker.
    sys.modules["torch"] = None  # type: ignore[assignment]


def end_with_parent(seconds: float = 1.0) -> None:
    """Watch the parent process in a thread; when it is gone, end this process group, so that nothing writes on."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def main() -> None:
    """Call `img2dataset.download` with the keyword arguments given as one JSON object."""
    end_with_parent()
    import img2dataset  # takes seconds, and the workers that import this module import it themselves

    img2dataset.download(**json.loads(sys.argv[1]))


if __name__ == "__main__":
    main()
