"""Reading of state dicts from others' files; unpickles tensors and plain containers only: no code runs."""

import pickle
import re
import struct
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from atjem.checkpoint import CheckpointError

Weights = dict[str, Tensor]
_MAGIC = (b"PK", b"\x80")  # torch's archives since version 1.6, and the pickles before
UNREADABLE = (  # what torch.load raises of files that are damaged, or made to be
    *(OSError, EOFError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, AssertionError),
    *(ArithmeticError, MemoryError, struct.error, zipfile.BadZipFile),
)


class PickledObjectsError(CheckpointError):
    """A file holds more than tensors. `wanted`: what it would import; empty where it does not tell."""

    def __init__(self, message: str, wanted: str = "") -> None:
        super().__init__(message)
        self.wanted = wanted


def read_state_dict(file: Path, *, trusted: bool = False) -> Weights:
    """The state dict in a torch file, by itself or under 'model' or 'state_dict', on the CPU.

    trusted: unpickle whatever else the file holds, which runs any code that its maker put there. Raises
    CheckpointError for other files; PickledObjectsError for those that hold more and are not trusted.
    """
    try:
        return _state_dict(file, load_tensors(file))
    except pickle.UnpicklingError as error:
        if not trusted:
            raise _refusal(file, error) from error
    except UNREADABLE as error:
        raise _unreadable(file, error) from error
    return _state_dict(file, _unpickle(file))


def load_tensors(file: Path, map_location: str = "cpu") -> object:
    """What a torch file holds: tensors and plain containers.

    Raises pickle.UnpicklingError for anything else, before it is brought to life, and one of many other
    exceptions for a damaged file.
    """
    with file.open("rb") as stream:
        magic = stream.read(2)
    if not magic.startswith(_MAGIC):
        raise EOFError("it is neither an archive nor a pickle")
    if magic == _MAGIC[0]:
        _refuse_packed(file)
    return torch.load(file, map_location=map_location, weights_only=True)


def _refuse_packed(file: Path) -> None:
    """torch packs nothing; a file that others packed may unpack to any size."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    if sum(member.file_size for member in members) > file.stat().st_size:
        raise EOFError("it is packed, which torch.save never does")


def _refusal(file: Path, error: pickle.UnpicklingError) -> PickledObjectsError:
    found = re.search(r"GLOBAL (\S+)", str(error))
    wanted = found[1] if found else ""
    objects = "pickled objects besides tensors" + f" ({wanted})" * bool(wanted)
    load = f"torch.load({file.name!r}, weights_only=False, pickle_module=dill)"
    return PickledObjectsError(
        f"{file} holds {objects}, and unpickling those can run any code; if you trust the file, convert it "
        f"once where its modules are installed: torch.save({{'model': {load}['model']}}, 'weights.pt')",
        wanted,
    )


def _unpickle(file: Path) -> object:
    """For a file that the user trusts: its code runs, and may raise anything."""
    try:
        return torch.load(file, map_location="cpu", weights_only=False)
    except (ImportError, pickle.UnpicklingError, *UNREADABLE) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: BaseException) -> CheckpointError:
    reason = str(error).partition("\n")[0] or type(error).__name__
    return CheckpointError(f"{file} is not a torch checkpoint that can be read: {reason}")


def _state_dict(file: Path, content: object) -> Weights:
    nested = content
    if isinstance(content, dict):
        nested = next((content[key] for key in ("model", "state_dict") if key in content), content)
    if isinstance(nested, nn.Module):  # of a trusted file alone
        nested = nested.state_dict()
    if not isinstance(nested, dict) or not nested:
        raise CheckpointError(f"{file} has no state dict, neither by itself nor as 'model' or 'state_dict'")
    for name, value in nested.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            kind = type(value).__name__
            raise CheckpointError(f"{file}: {name!r} is of type {kind}; a state dict names tensors only")
    return nested
