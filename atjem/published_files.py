"""Reading of state dicts from others' files; unpickles tensors and plain containers only: no code runs."""

import pickle
import re
import struct
from pathlib import Path

import torch
from torch import Tensor

from atjem.checkpoint import CheckpointError

Weights = dict[str, Tensor]
_MAGIC = (b"PK", b"\x80")  # torch's archives since version 1.6, and the pickles before
_CORRUPT = (OSError, EOFError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, struct.error)


def read_state_dict(file: Path) -> Weights:
    """The state dict in a torch file, by itself or under 'model' or 'state_dict', on the CPU.

    Raises CheckpointError for other files, and for those that hold pickled objects besides tensors.
    """
    try:
        content = _unpickle_tensors(file)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_why_refused(file, error)) from error
    except _CORRUPT as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{file} is not a torch checkpoint that can be read: {reason}") from error
    return _state_dict(file, content)


def _unpickle_tensors(file: Path) -> object:
    with file.open("rb") as stream:
        if not stream.read(2).startswith(_MAGIC):
            raise EOFError("it is neither an archive nor a pickle")
    return torch.load(file, map_location="cpu", weights_only=True)


def _why_refused(file: Path, error: pickle.UnpicklingError) -> str:
    found = re.search(r"GLOBAL (\S+)", str(error))
    objects = f"pickled objects besides tensors ({found[1]})" if found else "pickled objects besides tensors"
    load = f"torch.load({file.name!r}, weights_only=False, pickle_module=dill)"
    return (
        f"{file} holds {objects}, and unpickling those can run any code; if you trust the file, convert it "
        f"once where its modules are installed: torch.save({{'model': {load}['model']}}, 'weights.pt')"
    )


def _state_dict(file: Path, content: object) -> Weights:
    nested = content
    if isinstance(content, dict):
        nested = next((content[key] for key in ("model", "state_dict") if key in content), content)
    if not isinstance(nested, dict) or not nested:
        raise CheckpointError(f"{file} has no state dict, neither by itself nor as 'model' or 'state_dict'")
    for name, value in nested.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            kind = type(value).__name__
            raise CheckpointError(f"{file}: {name!r} is of type {kind}; a state dict names tensors only")
    return nested
