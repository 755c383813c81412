"""Foreign weight files, written by the real writers; the malicious ones are real too."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.models.weight_file import load_strictly, read_weights
from tests.unit.models.architectures import make

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "logit_scale": torch.tensor(4.0)}


class Payload:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def prefixed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in weights.items()}


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        prefixed(WEIGHTS),
        {"state_dict": WEIGHTS, "epoch": 3},
        {"epoch": 3, "name": "run", "state_dict": prefixed(WEIGHTS), "optimizer": {"state": {}, "param_groups": [{}]}},
        {"state_dict": WEIGHTS, "args": argparse.Namespace(lr=0.1, model="CLIP_VITB16", nested=["x", None])},
        {**WEIGHTS, "input_resolution": torch.tensor(224), "context_length": 77, "vocab_size": 49408},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_is_found_wherever_trainers_put_it(tmp_path: Path, content: object, zipped: bool) -> None:
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    assert equal(read_weights(tmp_path / "w.pt"), WEIGHTS)


def test_safetensors_are_read_and_torn_ones_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(prefixed(WEIGHTS), path)
    assert equal(read_weights(path), WEIGHTS)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(PipelineError, match="w.safetensors .50 bytes. is cut short, damaged or no file of weights"):
        read_weights(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_its_code_does_not_run(tmp_path: Path, zipped: bool) -> None:
    path, trace = tmp_path / "w.pt", tmp_path / "it_ran"
    torch.save({"state_dict": WEIGHTS, "args": Payload(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(PipelineError, match=r"w.pt is refused: it names posix.system, which is code"):
        read_weights(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "the payload of this test must be a real one"


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_bare_pickle_is_refused(tmp_path: Path, protocol: int) -> None:
    path, trace = tmp_path / "w.bin", tmp_path / "it_ran"
    path.write_bytes(pickle.dumps(Payload(trace), protocol=protocol))
    with pytest.raises(PipelineError, match="w.bin .*no file of weights|w.bin is refused"):
        read_weights(path)
    assert not trace.exists()


def test_other_objects_are_refused_by_name(tmp_path: Path) -> None:
    torch.save({"state_dict": WEIGHTS, "path": Path("x")}, tmp_path / "w.pt")
    with pytest.raises(PipelineError, match=r"it names pathlib\S*PosixPath, which is code"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {"model": WEIGHTS}])
def test_a_file_without_a_state_dict_tells_what_it_holds(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(PipelineError, match="w.pt holds no state dict"):
        read_weights(tmp_path / "w.pt")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(PipelineError, match="w.pt"):
        read_weights(path)


def scripted_clip(path: Path) -> dict[str, Tensor]:
    """A small CLIP as OpenAI publishes theirs: traced, in half precision, as a TorchScript archive."""
    clip = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16},
        text_cfg={"context_length": 12, "vocab_size": 100, "width": 16, "heads": 2, "layers": 2},
        quick_gelu=True,
    ).eval()
    text, image = torch.zeros(1, 12, dtype=torch.int), torch.ones(1, 3, 32, 32)
    inputs = {"forward": (image, text), "encode_text": (text,), "encode_image": (image,)}
    traced = torch.jit.trace_module(clip, inputs, check_trace=False)
    traced.half().save(path)
    return {name: tensor.half() for name, tensor in clip.state_dict().items()}


def test_a_torchscript_archive_gives_its_tensors(tmp_path: Path) -> None:
    wanted = scripted_clip(tmp_path / "clip.pt")
    assert equal(read_weights(tmp_path / "clip.pt"), wanted)


def test_code_in_a_torchscript_archive_is_refused_and_does_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "clip.pt", tmp_path / "it_ran"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("clip/data.pkl", pickle.dumps(Payload(trace), protocol=2))
        archive.writestr("clip/constants.pkl", pickle.dumps((), protocol=2))
        archive.writestr("clip/version", "3\n")
    with pytest.raises(PipelineError, match="clip.pt is refused: it names posix.system"):
        read_weights(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "content", [{"state_dict": [torch.zeros(1)]}, {"state_dict": torch.zeros(2)}, {0: torch.zeros(1)}, [], {}]
)
def test_what_is_no_mapping_of_names_to_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(PipelineError, match="holds no state dict"):
        read_weights(tmp_path / "a.pt")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_an_empty_file_and_a_folder_are_named(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"empty.{suffix}").touch()
    (tmp_path / f"folder.{suffix}").mkdir()
    for name, words in (("empty", "holds no weights: it is an empty file"), ("folder", "is a folder")):
        with pytest.raises(PipelineError, match=f"{name}.{suffix} {words}"):
            read_weights(tmp_path / f"{name}.{suffix}")


def test_an_archive_that_would_grow_when_unpacked_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/constants.pkl", b"")
        archive.writestr("a/data.pkl", b"\0" * 10**6)
    with pytest.raises(PipelineError, match=r"its a/data.pkl is compressed"):
        read_weights(tmp_path / "bomb.pt")


def test_an_archive_without_proper_data_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "no.pt", "w") as archive:
        archive.writestr("a/constants.pkl", b"")
        archive.writestr("a/data.pkl", b"not a pickle")
    with pytest.raises(PipelineError, match=r"no.pt"):
        read_weights(tmp_path / "no.pt")


def test_missing_unexpected_and_misshapen_keys_are_all_listed(tmp_path: Path) -> None:
    model = make("clip", tmp_path).model
    weights = model.state_dict()
    gone = [name for name in weights if ".ln_1." in name]
    for name in gone:
        weights.pop(name)
    weights["visual.proj"] = torch.zeros(3, 4)
    weights |= {f"strange.{number}": torch.zeros(1) for number in range(30)}
    with pytest.raises(PipelineError) as caught:
        load_strictly(model, weights, "w.pt", "Choose another.")
    message = str(caught.value)
    assert f"{len(gone)} missing ({', '.join(gone)})" in message
    assert "30 unexpected (strange.0, " in message
    assert "strange.19 and 10 more" in message
    assert "1 misshapen (visual.proj (3, 4) instead of (32, 24))" in message


def test_keys_behind_a_prefix_are_named_as_such(tmp_path: Path) -> None:
    model = make("clip", tmp_path).model
    weights = {f"student.clip.{name}": tensor for name, tensor in model.state_dict().items()} | {"loss": torch.ones(1)}
    with pytest.raises(PipelineError, match="The model's keys stand after 'student.clip.' in it"):
        load_strictly(model, weights, "w.pt", "Choose another.")


def test_tensors_that_are_none_or_not_finite_are_named(tmp_path: Path) -> None:
    model = make("clip", tmp_path).model
    name = "visual.proj"
    wanted = model.state_dict()[name]
    for strange in (
        torch.full(wanted.shape, 1e300, dtype=torch.float64),
        torch.full(wanted.shape, torch.nan),
        torch.zeros(1).expand(2**40),
        torch.zeros(wanted.shape, dtype=torch.int64),
        wanted.to_sparse(),
        torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)]),
        torch.quantize_per_tensor(wanted, 0.1, 0, torch.qint8),
    ):
        with pytest.raises(PipelineError, match=f"1 (misshapen|not finite or of another kind) .{name}"):
            load_strictly(model, model.state_dict() | {name: strange}, "w.pt", "Choose another.")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("numpy_1", [True, False])
def test_data_beside_the_weights_is_left_out(tmp_path: Path, zipped: bool, numpy_1: bool) -> None:
    path = tmp_path / "w.pt"
    random = {"numpy": np.random.get_state(), "torch": torch.get_rng_state(), "python": (3, (1, 2), None)}
    content = {
        "state_dict": WEIGHTS,
        "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(1e-4), "step": np.int64(3)}]},
        "best": np.float32(0.5),
        "history": np.arange(3.0),
        "names": np.array(["a", "b"]),
        "random": random,
    }
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    if numpy_1:
        renamed(path, b"numpy._core.", b"numpy.core.")
    assert equal(read_weights(path), WEIGHTS)


def renamed(path: Path, old: bytes, new: bytes) -> None:
    """The same file as the library's other version writes it, where a class has another name."""
    if not zipfile.is_zipfile(path):
        assert old in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(old, new))
        return
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: archive.read(member) for member in archive.infolist()}
    assert any(old in content for content in members.values())
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(old, new) if name.endswith("data.pkl") else content)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
            "a git-lfs pointer of 64 bytes and not",
        ),
        (b"\n <!DOCTYPE html><title>Google Drive", "a web page of 36 bytes and not the file itself"),
        (b"\x1f\x8b\x08" + bytes(90), "holds no weights: it is compressed by gzip; gunzip it"),
        (b"\x93NUMPY\x01\0" + bytes(90), "holds no weights: it is a NumPy array"),
        (b"hello", "is cut short, damaged or no file of weights"),
    ],
)
def test_what_is_plainly_something_else_is_called_so(tmp_path: Path, suffix: str, content: bytes, words: str) -> None:
    path = tmp_path / f"w.{suffix}"
    path.write_bytes(content)
    with pytest.raises(PipelineError, match=words) as caught:
        read_weights(path)
    assert "weights_only" not in str(caught.value)


def test_a_compressed_archive_of_torchs_other_form_is_refused_before_it_grows(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\0" * 10**6)
        archive.writestr("a/version", b"3\n")
    with pytest.raises(PipelineError, match="its a/data.pkl is compressed, which torch never does"):
        read_weights(tmp_path / "bomb.pt")
