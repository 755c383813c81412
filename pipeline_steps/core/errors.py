"""The one exception for everything that a user can mend, and the words for what the system refuses."""

from __future__ import annotations

import errno
import re


class PipelineError(Exception):
    """A fact, its place and the remedy, in words for the user; the step wrapper prints it without a traceback."""

    def __str__(self) -> str:
        """The words; torch puts a data-loading process's traceback before them, which is left out."""
        text = super().__str__()
        in_worker = text.startswith("Caught ") and "DataLoader worker process" in text.partition("\n")[0]
        return text.rpartition("PipelineError: ")[2].strip() if in_worker else text


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def without_control(text: str) -> str:
    """A text that may hold a stranger's, with what would move a terminal's cursor or turn its letters spelled out."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class FullDiskError(PipelineError):
    """There is no room to write."""


_KEPT = "What was finished before is kept: run the step again."
_RIGHTS = f"Give yourself the rights to it, or name another place (`results_dir`, or the step's option). {_KEPT}"
_REMEDIES = {
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: f"Name a place that can be written (`results_dir`, or the step's option). {_KEPT}",
    errno.ENOENT: "Bring it back, or run the stage that makes it.",
    errno.ENOTDIR: "A file stands where a folder belongs: move it away, or name another place.",
    errno.EEXIST: "A file stands where a folder belongs: move it away, or name another place.",
    errno.EISDIR: "A folder stands where a file belongs: move it away, or name another place.",
    errno.ENOTEMPTY: "Something else writes there. Wait until it has ended, or name another place.",
    errno.ENAMETOOLONG: "Give the experiment or the folder a shorter name.",
    errno.ELOOP: "Its links lead in a circle: put the file itself there.",
    errno.EMFILE: "Lower `workers`, or allow more open files (`ulimit -n`).",
    errno.ENFILE: "The machine has too many open files. Wait, or end what opens them.",
    errno.ENOSPC: f"Free some space. {_KEPT}",
    errno.EDQUOT: f"Free some of your quota. {_KEPT}",
}
_OTHER = f"Look at the disk, the network file system or the process that holds it. {_KEPT}"
_NO_MEMORY = ("out of memory", "can't allocate memory", "could not create a primitive", "Cannot allocate memory")


def told(error: BaseException) -> str | None:
    """The words for an error that is no bug: of the file system, with its path, and of too little memory; else None."""
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno == errno.ENOMEM:
            return _memory_told(error)
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        where = f"{' and '.join(names)}: " if names else ""
        return f"{where}{error.strerror}. {_REMEDIES.get(error.errno, _OTHER)}"
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return _memory_told(error)
    return None


def _memory_told(error: BaseException) -> str:
    first = next(iter(str(error).splitlines()), "")
    return (
        f"there is too little memory{f' ({first[:200]})' if first else ''}. Lower batch_size or workers, set "
        "chunk_size, or use a machine with more."
    )
