from __future__ import annotations

import subprocess
import sys

from tests.unit.data.made_data import gone

PARENT = """
import subprocess, sys, time
child = "from pipeline_steps.data.img2dataset_process import end_with_parent\\n" \
    "import os, time\\nend_with_parent()\\nprint(os.getpid(), flush=True)\\ntime.sleep(60)"
subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, start_new_session=True)
time.sleep(60)
"""


def test_the_download_process_ends_when_its_step_is_killed_outright() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    assert gone(child)
    parent.stdout.close()


def test_importing_the_module_does_not_hide_torch_from_others() -> None:
    code = "import sys, pipeline_steps.data.img2dataset_process; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
