"""Reading tensors from a file that somebody else made: data only, whatever its form."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline_steps.core.errors import PipelineError
from pipeline_steps.core.foreign import ZIP, told_by_first_bytes

Weights = dict[str, Tensor]
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # numbers that OpenAI's archives hold as tensors
_WRAPPERS = ("module.", "_orig_mod.", "model.")  # of DistributedDataParallel, torch.compile and Lightning
_RECORDS = ("data.pkl", "version", "byteorder")  # and data/: what a TorchScript archive holds beside code and constants
_SCRIPT_CLASS = "__torch__."
_MOST_LISTED = 20


class _Inert:
    """What stands in for everything that is data beside the weights: it keeps nothing and does nothing."""

    def __init__(self, *_arguments: object, **_options: object) -> None: ...

    def __setstate__(self, _state: object) -> None: ...


_DATA = (
    "argparse.Namespace",  # the options of a training script
    "_codecs.encode",  # how pickle keeps bytes
    "numpy.dtype",
    "numpy.ndarray",
    *(
        f"numpy.{core}.{name}"  # of NumPy 1 and of NumPy 2
        for core in ("core", "_core")
        for name in ("multiarray.scalar", "multiarray._reconstruct", "numeric._frombuffer")
    ),
)
_STAND_INS: list[Any] = [(_Inert, name) for name in _DATA]


def read_weights(path: Path) -> Weights:
    """The state dict in a safetensors file, a torch file or a TorchScript archive, on CPU.

    A state dict may stand under the key `state_dict`, and its keys after `module.`, `_orig_mod.` or `model.`. No code
    of the file is run: torch files are read with weights_only, TorchScript archives for their tensors alone. What
    training scripts keep beside weights, such as options and NumPy's scalars and random states, counts as data and is
    left out. Raises PipelineError when the file asks for anything else, is damaged, is plainly something else, or
    holds no state dict.
    """
    if path.suffix == ".safetensors":
        try:
            loaded: Any = safetensors.torch.load_file(path)
        except MemoryError:
            raise
        except Exception as error:  # SafetensorError, and whatever else its bytes lead to
            raise _damaged(path, error) from error
    elif _is_torchscript(path):
        loaded = _read_torchscript(path)
    else:
        loaded = _read_torch(path, path, _STAND_INS)
    return _state_dict(loaded, path)


def load_strictly(model: nn.Module, weights: Weights, source: str, remedy: str) -> None:
    """Load a state dict of exactly the model's keys and shapes, whatever its float type.

    Raises PipelineError that lists missing, unexpected, misshapen and unusable keys, with `remedy`.
    """
    own = model.state_dict()
    known = [name for name in weights if name in own]
    misshapen = [name for name in known if _shape(weights[name]) != _shape(own[name])]
    groups = {
        "missing": [name for name in own if name not in weights],
        "unexpected": [name for name in weights if name not in own],
        "misshapen": [f"{name} {_shape(weights[name])} instead of {_shape(own[name])}" for name in misshapen],
        "not finite or of another kind": [
            name for name in known if name not in misshapen and not _same_kind(weights[name], own[name])
        ],
    }
    if any(groups.values()):
        listed = "; ".join(_listed(kind, names) for kind, names in groups.items() if names)
        raise PipelineError(f"{source} does not fit the model: {listed}. {_prefix_told(weights, own) or remedy}")
    model.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in weights.items()})


def _shape(tensor: Tensor) -> tuple[int, ...] | str:
    return "nested" if tensor.is_nested else tuple(tensor.shape)


def _same_kind(found: Tensor, wanted: Tensor) -> bool:
    """Whether a tensor can stand for another: dense, with floats for floats, none of them infinite or NaN as such."""
    if found.layout != torch.strided or found.is_meta or found.is_quantized or found.is_complex():
        return False
    if found.is_floating_point() != wanted.is_floating_point():
        return False
    return bool(torch.isfinite(found.to(wanted.dtype)).all())


def _prefix_told(weights: Weights, own: Weights) -> str | None:
    """What to say where most of the model's keys are there, all of them after the same words."""
    prefixes = {name.removesuffix(key) for key in list(own)[:1] for name in weights if name.endswith(f".{key}")}
    for prefix in prefixes:
        if sum(f"{prefix}{key}" in weights for key in own) > len(own) / 2:
            return f"The model's keys stand after {prefix!r} in it: save a state dict with these alone, without that."
    return None


def _listed(kind: str, names: list[str]) -> str:
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return f"{len(names)} {kind} ({', '.join(names[:_MOST_LISTED])}{more})"


def _state_dict(loaded: Any, path: Path) -> Weights:
    found = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    members = found.items() if isinstance(found, Mapping) else ()
    weights = {name: value for name, value in members if name not in _NOT_WEIGHTS}
    if not weights or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()):
        holds = f"the keys {', '.join(map(str, list(loaded)[:10]))}" if isinstance(loaded, Mapping) else type(loaded)
        raise PipelineError(
            f"{path} holds no state dict, neither by itself nor under `state_dict`; it holds {holds}. Give a file "
            "that maps the model's keys to tensors."
        )
    while prefix := next((p for p in _WRAPPERS if all(name.startswith(p) for name in weights)), None):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _read_torch(stream: Path | BinaryIO, path: Path, stand_ins: list[Any]) -> Any:
    try:
        if isinstance(stream, Path) and zipfile.is_zipfile(stream):
            with zipfile.ZipFile(stream) as archive:
                _require_plain(archive.infolist(), stream.stat().st_size)
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(stream, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named is None:
            raise _damaged(path, error) from error
        raise PipelineError(
            f"{path} is refused: it names {named[1]}, which is code, and a checkpoint is read as data. Ask its maker "
            "for safetensors; or, where you trust it, save its state dict alone: "
            "torch.save(torch.load(PATH, weights_only=False)['state_dict'], NEW_PATH)."
        ) from error
    except Exception as error:  # a damaged pickle ends in any of ten kinds
        raise _damaged(path, error) from error


def _require_plain(members: list[zipfile.ZipInfo], size: int) -> None:
    """An archive cannot grow beyond the file's own size, as torch writes it: not compressed, no byte told twice."""
    packed = next((member.filename for member in members if member.compress_type != zipfile.ZIP_STORED), None)
    if packed is not None:
        raise zipfile.BadZipFile(f"its {packed} is compressed, which torch never does")
    if sum(member.file_size for member in members) > size:
        raise zipfile.BadZipFile("its members are together larger than the file")


def _damaged(path: Path, error: Exception) -> PipelineError:
    if path.is_dir():
        return PipelineError(f"{path} is a folder. Name the file of weights in it.")
    if (what := told_by_first_bytes(path)) and what != ZIP:
        return PipelineError(f"{path} holds no weights: it is {what}.")
    reason = str(error).rpartition("WeightsUnpickler error:")[2].strip()  # torch first advises to trust the file
    return PipelineError(
        f"{path} ({path.stat().st_size:,} bytes) is cut short, damaged or no file of weights "
        f"({next(iter(reason.splitlines()), type(error).__name__)}). Get it again from where it was made."
    )


class _Module:
    """What stands in for every class of a TorchScript archive: attributes and nothing else."""

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update({name: value for name, value in state.items() if isinstance(name, str)})


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/")[1:] == ["constants.pkl"] for name in archive.namelist())
    except OSError as error:
        raise _damaged(path, error) from error
    except Exception:  # zipfile has several kinds for an archive that is none
        return False


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    """The archive's tensors by the names that its module's state dict would have.

    Its data records are read as a torch file, without its code and constants; its classes are all `_Module`.
    """
    data = io.BytesIO()
    try:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(data, "w") as plain:
            records = {"/".join(member.filename.split("/")[1:]): member for member in archive.infolist()}
            kept = [name for name in records if name.startswith("data/") or name in _RECORDS]
            _require_plain([records[name] for name in kept], path.stat().st_size)
            for name in kept:
                plain.writestr(f"archive/{name}", archive.read(records[name]))
        data.seek(0)
        classes = torch.serialization.get_unsafe_globals_in_checkpoint(data)
    except MemoryError:
        raise
    except Exception as error:
        raise _damaged(path, error) from error
    own: list[Any] = [(_Module, name) for name in classes if name.startswith(_SCRIPT_CLASS)]
    data.seek(0)
    module = _read_torch(data, path, own)
    return {name: tensor for name, tensor in _tensors(module).items() if not name.endswith("attn_mask")}


def _tensors(top: Any) -> Weights:
    """The tensors of a module and of its parts, by their dotted names."""
    found: Weights = {}
    waiting, seen = [("", top)], set()
    while waiting:
        prefix, module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        for name, value in getattr(module, "__dict__", {}).items():
            if isinstance(value, Tensor):
                found[f"{prefix}{name}"] = value
            elif isinstance(value, _Module):
                waiting.append((f"{prefix}{name}.", value))
    return found
