"""A step's command line: options that take several paths, plain words, and what MLflow keeps of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from pipeline_steps.core.files import sha256_of
from pipeline_steps.core.process import failing_cleanly
from pipeline_steps.core.step import Step, StepContext
from tests.unit.step_runs import runs_of

SEEN: list[StepContext] = []
SETTINGS = '{"experiment": "test", "eval_retrieval": {"recall_at": [1]}}'


def _copy(context: StepContext) -> None:
    SEEN.append(context)
    for source, copy in zip(context.several["source"], context.several["copy"], strict=True):
        copy.write_bytes(source.read_bytes())


STEP = Step(
    name="eval_retrieval",
    summary="Copies files.",
    sections=("eval_retrieval",),
    inputs={"source": "files", "extra": "optional file"},
    outputs={"copy": "their copies"},
    run=_copy,
    several=("source", "copy"),
    options={"dataset": "a set's name"},
)


def _main(sources: list[Path], copies: list[Path], *more: str) -> int:
    paths = ["--source", *map(str, sources), "--copy", *map(str, copies)]
    return STEP.main([*paths, "--dataset", "cifar10", "--settings", SETTINGS, "--method", "ncu", *more])


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_RESULTS_DIR", str(tmp_path))
    SEEN.clear()


def test_several_paths_and_plain_words_reach_the_step(tmp_path: Path) -> None:
    sources, copies = [tmp_path / name for name in "ab"], [tmp_path / name for name in "cd"]
    for source in sources:
        source.write_text(source.name)
    assert _main(sources, copies) == 0
    (context,) = SEEN
    assert context.several == {"source": tuple(sources), "copy": tuple(copies)}
    assert context.paths["copy"] == copies[0]
    assert context.options == {"dataset": "cifar10"}
    (run,) = runs_of("eval_retrieval")
    assert run.tags["output.copy.0.sha256"] == sha256_of(copies[0])
    assert run.tags["output.copy.1.sha256"] == sha256_of(copies[1])
    assert run.params["dataset"] == "cifar10"


def test_one_path_where_several_are_allowed_keeps_its_plain_name(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    assert _main([tmp_path / "a"], [tmp_path / "c"]) == 0
    (run,) = runs_of("eval_retrieval")
    assert "output.copy.sha256" in run.tags


def test_every_missing_input_is_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main([tmp_path / "a", tmp_path / "b"], [tmp_path / "c"], "--extra", str(tmp_path / "e")) == 1
    text = capsys.readouterr().err
    assert all(
        f"{option} {tmp_path / name}" in text
        for option, name in (("--source", "a"), ("--source", "b"), ("--extra", "e"))
    )


def test_threads_of_a_step_wait_asleep_unless_the_user_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given, expected in (("", "PASSIVE"), ("ACTIVE", "ACTIVE")):
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
        if not given:
            monkeypatch.delenv("OMP_WAIT_POLICY")
        assert _main([tmp_path / "none"], [tmp_path / "copy"]) == 1
        assert os.environ["OMP_WAIT_POLICY"] == expected


def test_a_step_that_failed_kills_its_loaders_and_takes_no_signal_until_it_has_told() -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
    before = {number: signal.getsignal(number) for number in numbers}
    left = multiprocessing.get_context("fork").Process(target=_ignore_sigterm, daemon=True)
    try:
        with pytest.raises(RuntimeError, match="a picture"), failing_cleanly():
            left.start()
            raise RuntimeError("a picture")
        assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        left.join(10)
        assert left.exitcode == -signal.SIGKILL
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(b"a")
    return tmp_path / "a"


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (
            "a/below",
            "a: File exists. A file stands where a folder belongs: move it away, or name another",
        ),
        (
            "folder",
            "folder: Is a directory. A folder stands where a file belongs: move it away, or name another place.",
        ),
        ("link", "link is a link to elsewhere, which is not written over. Remove it, or name another"),
        ("pipe", "pipe is a device or a pipe, which is not written over. Name a file or a folder"),
        (f"{'x' * 300}", "File name too long. Give the experiment or the folder a shorter name."),
    ],
)
def test_what_cannot_be_written_is_told_without_a_traceback(
    output: str, words: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    os.mkfifo(tmp_path / "pipe")
    assert _main([source], [tmp_path / output]) == 1
    shown = capsys.readouterr().err
    assert words in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "elsewhere").exists()


def test_a_log_that_cannot_be_written_is_told(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main([source], [tmp_path / "b"], "--log-file", str(tmp_path)) == 1
    assert f"eval_retrieval: --log-file: {tmp_path}: Is a directory." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "word"),
    [("--threads", "-5"), ("--seed", "-1"), ("--seed", str(2**70)), ("--seed", "1e3"), ("--seed", "١")],
)
def test_numbers_of_the_command_line_are_checked(
    option: str, word: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        _main([source], [tmp_path / "b"], f"{option}={word}")
    assert f"argument {option}: {word!r}: allowed is a whole number from 0 to" in capsys.readouterr().err


@pytest.mark.parametrize(
    "settings", ["[1]", "{", "[" * 10**5, '{"experiment": "../x", "eval_retrieval": {"recall_at": [1]}}']
)
def test_settings_of_another_form_are_told(
    settings: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--source", str(source), "--copy", str(tmp_path / "b"), "--method", "ncu"]
    assert STEP.main([*options, "--dataset", "x", "--settings", settings]) == 1
    shown = capsys.readouterr().err
    assert "the configuration has 1 error(s)" in shown
    assert "Traceback" not in shown
