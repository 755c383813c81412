"""Reading tensors from a file that somebody else made: data only, whatever its form."""

from __future__ import annotations

import argparse
import io
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from pipeline_steps.core.errors import PipelineError

_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # numbers that OpenAI's archives hold as tensors
_SCRIPT_CLASS = "__torch__."


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a safetensors file, a torch file or a TorchScript archive, on CPU.

    A state dict may stand under the key `state_dict`, and its keys after `module.`. No code of the file is run: torch
    files are read with weights_only (`argparse.Namespace`, in which training scripts keep their options, counts as
    data), TorchScript archives for their tensors alone. Raises PipelineError when the file asks for anything else,
    is damaged, or holds no state dict.
    """
    if path.suffix == ".safetensors":
        try:
            loaded: Any = safetensors.torch.load_file(path)
        except (SafetensorError, OSError) as error:
            raise PipelineError(f"{path} is cut short or is no safetensors file: {error}") from error
    elif _is_torchscript(path):
        loaded = _read_torchscript(path)
    else:
        loaded = _read_torch(path, path)
    return _state_dict(loaded, path)


def _state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    found = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    members = found.items() if isinstance(found, Mapping) else ()
    weights = {name: value for name, value in members if name not in _NOT_WEIGHTS}
    if not weights or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()):
        holds = f"the keys {', '.join(map(str, list(loaded)[:10]))}" if isinstance(loaded, Mapping) else type(loaded)
        raise PipelineError(
            f"{path} holds no state dict, neither by itself nor under `state_dict`; it holds {holds}. Give a file "
            "that maps the model's keys to tensors."
        )
    if all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    return weights


def _read_torch(stream: Path | BinaryIO, path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(stream, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it names {named[1]}, which is code" if named else "it is not only tensors"
        raise PipelineError(
            f"{path} is refused: {what}, and a checkpoint is read as data. Ask its maker for safetensors; or, where "
            "you trust it, save its state dict alone: torch.save(torch.load(PATH, weights_only=False)['state_dict'], "
            "NEW_PATH)."
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> PipelineError:
    first = next(iter(str(error).splitlines()), type(error).__name__)
    return PipelineError(f"{path} is cut short, damaged or no torch file: {first}")


class _Module:
    """What stands in for every class of a TorchScript archive: attributes and nothing else."""


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/")[1:] == ["constants.pkl"] for name in archive.namelist())
    except zipfile.BadZipFile:
        return False
    except OSError as error:
        raise _damaged(path, error) from error


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    """The archive's tensors by the names that its module's state dict would have.

    Its data records are read as a torch file, without its code and constants; its classes are all `_Module`.
    """
    data = io.BytesIO()
    try:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(data, "w") as plain:
            for member in archive.infolist():
                record = "/".join(member.filename.split("/")[1:])
                if record == "data.pkl" or record.startswith("data/") or record in ("version", "byteorder"):
                    if member.compress_type != zipfile.ZIP_STORED:  # so it cannot grow beyond the file's own size
                        raise zipfile.BadZipFile(f"its {record} is compressed, which torch never does")
                    plain.writestr(f"archive/{record}", archive.read(member))
        data.seek(0)
        classes = torch.serialization.get_unsafe_globals_in_checkpoint(data)
    except (zipfile.BadZipFile, RuntimeError, ValueError, OSError) as error:
        raise _damaged(path, error) from error
    own: list[Any] = [(_Module, name) for name in classes if name.startswith(_SCRIPT_CLASS)]
    data.seek(0)
    with torch.serialization.safe_globals(own):
        module = _read_torch(data, path)
    return {name: tensor for name, tensor in _tensors(module, "").items() if not name.endswith("attn_mask")}


def _tensors(module: Any, prefix: str) -> dict[str, Tensor]:
    found = {}
    for name, value in getattr(module, "__dict__", {}).items():
        if isinstance(value, Tensor):
            found[f"{prefix}{name}"] = value
        elif isinstance(value, _Module):
            found |= _tensors(value, f"{prefix}{name}.")
    return found
