"""img2dataset over a URL list: a work folder that an interrupted run goes on from, then the whole folder at once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

import pipeline_steps
from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.files import publish_folder, require_free_disk, whole_file
from pipeline_steps.core.process import Paused, Terminated, stop_noted
from pipeline_steps.core.schema import DownloadImagesConfig
from pipeline_steps.data.failures import failed_in_passing
from pipeline_steps.data.picture_limits import largest_bytes
from pipeline_steps.data.progress import progress_bar
from pipeline_steps.data.shards import SHARD_ENDING, is_whole_tar, remove_shards
from pipeline_steps.data.url_source import UrlSource

_QUALITY = {"jpg": 95, "webp": 95, "png": 6}
_KEY_SETTINGS = (
    "image_size", "resize_mode", "encode_format", "min_image_size", "max_image_pixels", "timeout_seconds", "retries",
    "samples_per_shard", "output_format",
)  # fmt: skip
_ADDED_PATIENCE_SECONDS = 300.0
_TIMEOUTS_OF_AN_ANSWER = 5
_MOST_BYTES = 64 * 2**20


class Workplace:
    """The work folder of one download, beside its output and keyed by the URL list and the settings that matter.

    `shards` is img2dataset's folder. A run that was interrupted goes on with the shards that are not finished.
    """

    def __init__(self, images: Path, source: UrlSource, settings: DownloadImagesConfig) -> None:
        chosen = {name: getattr(settings, name) for name in _KEY_SETTINGS}
        named = [source.content, source.first_shard, source.shards_of_list, chosen]
        key = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]
        self.images = images
        self.top = images.with_name(f".{images.name}.download")
        self.urls = self.top / key / "urls.parquet"
        self.shards = self.top / key / "shards"
        self.log = self.top / key / "img2dataset.log"
        self.shards_are_tars = settings.output_format == "webdataset"

    def finished_shards(self) -> list[Path]:
        """The statistics files that img2dataset writes last for every shard."""
        return sorted(self.shards.glob("*_stats.json"))

    def forget_shards(self, min_success_fraction: float) -> None:
        """Mark damaged shards and those with fewer successes as not finished, so that the next run fetches them."""
        for path in self.finished_shards():
            stats = _statistics(path, self.shards_are_tars)
            if stats is None or stats["successes"] < min_success_fraction * stats["count"]:
                path.unlink()

    def publish(self) -> None:
        """Make the finished folder the output, replacing an older one, and remove the work folder.

        A signal to stop waits meanwhile: stopped half-way, the step would have lost what it has fetched.
        """
        with stop_noted():
            shutil.rmtree(self.shards / "_tmp", ignore_errors=True)  # of an img2dataset that was killed at its end
            publish_folder(self.shards, self.images)
            shutil.rmtree(self.top)


class _Turn(NamedTuple):
    """One pass over a list: its rows, the number of its first shard and of the first of the next turn, rows before."""

    table: pa.Table
    first_shard: int
    next_turn: int
    rows_before: int


def fetch(source: UrlSource, settings: DownloadImagesConfig, work: Workplace) -> None:
    """Download every URL of `source` that no finished shard holds into `work.shards`, then what failed in passing.

    That is asked for in `retry_passes` more turns, whose shards are numbered after those of the whole list. Raises
    PipelineError for a full disk (before it starts) and when img2dataset fails or stands still, and when told to
    stop Paused where shards have been finished, else Terminated.
    """
    remove_shards(work.shards, (settings.retry_passes + 1) * source.shards_of_list)  # of a run that had more turns
    work.forget_shards(0.0)
    work.log.unlink(missing_ok=True)
    before = set(work.finished_shards())
    table, asked = source.table, 0
    try:
        for number in range(settings.retry_passes + 1):
            end = (number + 1) * source.shards_of_list
            turn = _Turn(table, number * source.shards_of_list + source.first_shard, end, asked)
            _fetch_turn(turn, source.bytes_per_row, settings, work)
            asked += table.num_rows
            if number < settings.retry_passes:
                shards = range(turn.first_shard, end)
                table = failed_in_passing(work.shards, shards, table, settings.samples_per_shard)
    except Terminated as stop:
        if set(work.finished_shards()) - before:
            raise Paused(stop.by) from stop
        raise
    work.shards.mkdir(parents=True, exist_ok=True)  # also where there is nothing to fetch


def _fetch_turn(turn: _Turn, bytes_per_row: int, settings: DownloadImagesConfig, work: Workplace) -> None:
    rows, per_shard = turn.table.num_rows, settings.samples_per_shard
    shards = range(turn.first_shard, turn.first_shard - (-rows // per_shard))
    missing = {f"{number:05d}_stats.json" for number in shards} - {path.name for path in work.finished_shards()}
    if not missing:
        return
    remove_shards(work.shards, turn.next_turn)  # their rows may be other ones now
    require_free_disk(work.top, min(len(missing) * per_shard, rows) * bytes_per_row)
    work.shards.mkdir(parents=True, exist_ok=True)
    with whole_file(work.urls) as partial:
        pq.write_table(turn.table, partial)
    threads_turns, limits = -(-min(per_shard, rows) // settings.threads), _limits(settings)
    longest_silence = threads_turns * limits["seconds"] * (settings.retries + 1) + _ADDED_PATIENCE_SECONDS
    arguments = [json.dumps(_arguments(settings, work)), str(turn.first_shard), json.dumps(limits)]
    command = [sys.executable, "-m", "pipeline_steps.data.img2dataset_process", *arguments]
    with running(command, child_environment(settings), work.log) as process:
        watch(process, work, turn.rows_before + rows, longest_silence)
    if process.returncode == -signal.SIGTERM:  # Slurm sends it to every process of a job
        raise Terminated()
    if process.returncode != 0:
        raise PipelineError(
            f"img2dataset ended with exit code {process.returncode}. Its last lines:\n{_tail(work.log)}\n"
            "Run the stage again: it goes on with the shards that are not finished."
        )


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a process group of its own, its output into `log`; the group ends with the block.

    Its standard input is a pipe into which nothing is written, and which closes when this process dies.
    """
    with log.open("ab") as output, subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def watch(process: subprocess.Popen[bytes], work: Workplace, rows: int, longest_silence_seconds: float) -> None:
    """Show progress until `process` ends.

    Raises PipelineError when nothing has arrived for so long that img2dataset must be waiting for a worker that
    was killed, which it would do for ever.
    """
    progress, last_news, size = _Progress(work), time.monotonic(), 0
    with progress_bar(rows, "download_images", "picture") as bar:
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
            done, grown = progress.count(), progress.tar_bytes()
            if done != bar.n or grown != size:
                bar.update(done - bar.n)
                last_news, size = time.monotonic(), grown
            if time.monotonic() - last_news > longest_silence_seconds:
                raise PipelineError(
                    f"img2dataset has got nothing for {longest_silence_seconds:.0f} s: a worker was probably killed, "
                    "most often for want of memory. Lower download_images.processes or threads and run the stage "
                    f"again: finished shards are kept. Its last lines:\n{_tail(work.log)}"
                )


class _Progress:
    """Counts URLs: all of finished shards, and the pictures there so far of the others where they are files."""

    def __init__(self, work: Workplace) -> None:
        self._work = work
        self._finished: dict[str, int] = {}

    def count(self) -> int:
        for path in self._work.finished_shards():
            name = path.name.removesuffix("_stats.json")
            if name not in self._finished and (stats := _statistics(path, self._work.shards_are_tars)):
                self._finished[name] = stats["count"]
        return sum(self._finished.values()) + sum(self._pictures(shard) for shard in self._open_shards())

    def tar_bytes(self) -> int:
        """Bytes of all tar shards, whose growth shows that pictures arrive."""
        return sum(path.stat().st_size for path in self._work.shards.glob(f"*{SHARD_ENDING}"))

    def _open_shards(self) -> list[Path]:
        shards = [path for path in self._work.shards.glob("[0-9]*") if path.suffix == "" and path.is_dir()]
        return [path for path in shards if path.name not in self._finished]

    def _pictures(self, shard: Path) -> int:
        with os.scandir(shard) as entries:
            return sum(entry.name.endswith(".json") for entry in entries)


def _statistics(path: Path, shard_is_tar: bool) -> dict[str, int] | None:
    """img2dataset's count and successes of one shard; None where they, the shard's table or its tar are not whole."""
    name = path.name.removesuffix("_stats.json")
    try:
        stats = json.loads(path.read_text(encoding="utf-8"))
        pq.read_metadata(path.with_name(f"{name}.parquet"))
        if shard_is_tar and not is_whole_tar(path.with_name(f"{name}{SHARD_ENDING}")):
            return None
        return {"count": int(stats["count"]), "successes": int(stats["successes"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _limits(settings: DownloadImagesConfig) -> dict[str, Any]:
    """What one answer may take, as Limits has it. The bundled pictures come from a server of this machine."""
    return {
        "most_bytes": min(_MOST_BYTES, largest_bytes(settings.max_image_pixels)),
        "seconds": _TIMEOUTS_OF_AN_ANSWER * settings.timeout_seconds,
        "private": settings.private_addresses or settings.url_list is None,
    }


def _arguments(settings: DownloadImagesConfig, work: Workplace) -> dict[str, Any]:
    return {
        "url_list": str(work.urls), "input_format": "parquet", "url_col": "url", "caption_col": "caption",
        "output_folder": str(work.shards), "output_format": settings.output_format, "incremental_mode": "incremental",
        "image_size": settings.image_size, "resize_mode": settings.resize_mode, "skip_reencode": True,
        "encode_format": settings.encode_format, "encode_quality": _QUALITY[settings.encode_format],
        "min_image_size": settings.min_image_size, "max_image_area": settings.max_image_pixels,
        "timeout": settings.timeout_seconds, "retries": settings.retries, "thread_count": settings.threads,
        "processes_count": settings.processes, "number_sample_per_shard": settings.samples_per_shard,
        "compute_hash": "sha256", "extract_exif": False, "enable_wandb": False,
    }  # fmt: skip


def child_environment(settings: DownloadImagesConfig) -> dict[str, str]:
    """For img2dataset alone: OpenCV refuses large pictures by their header, nobody looks for updates, loopback has no
    proxy.
    """
    package_folder = str(Path(next(iter(pipeline_steps.__path__))).absolute().parent)
    added = {
        "OPENCV_IO_MAX_IMAGE_PIXELS": str(settings.max_image_pixels),
        "NO_ALBUMENTATIONS_UPDATE": "1",
        "PYTHONUTF8": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [package_folder, os.environ.get("PYTHONPATH")])),
    }
    if settings.url_list is None:
        added |= dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1")
    return {**os.environ, **added}


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
