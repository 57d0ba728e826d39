"""Hostile checkpoints: no code runs, memory stays bounded, and each is refused with a reason."""

import argparse
import json
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from atjem.checkpoint import save_model
from atjem.models.registry import ModelSpec, build_model
from atjem.published import export_published, load_published
from tests.support.hostile import Answer, ask_each
from tests.support.published_sources import assert_same_logits, network, refused

ASK = """
from pathlib import Path
from atjem import load
from atjem.fidelity import is_inception_file
from atjem.models.registry import ModelSpec, build_model
from atjem.published import load_start
from atjem.statistics_file import read_statistics

def ask(path):
    if path.endswith(".npz"):
        return read_statistics(Path(path))
    if Path(path).is_dir():
        return load(path)
    assert not is_inception_file(Path(path))
    load_start(build_model(ModelSpec("wrn-10-1", 10, 1, 8, (0.0,), (1.0,))), Path(path))
"""
MEGABYTES = 300


class Evil:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return os.mkdir, (os.environ["HOSTILE_MARK"],)


def called(module: str, name: str, argument: int) -> bytes:
    """A pickle that calls a function of one whole number."""
    size = argument.bit_length() // 8 + 1
    number = b"\x8a" + bytes([size]) + argument.to_bytes(size, "little")
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(" + number + b"tR."


def archive(path: Path, pickled: bytes) -> Path:
    """As torch.save writes one, with other contents."""
    torch.save({"a": torch.zeros(2)}, path)
    with zipfile.ZipFile(path) as saved:
        members = {name: saved.read(name) for name in saved.namelist()}
    with zipfile.ZipFile(path, "w") as out:
        for name, content in members.items():
            out.writestr(name, pickled if name.endswith("data.pkl") else content)
    return path


def packed(path: Path) -> Path:
    """An archive of two megabytes that unpacks to half a gigabyte of zeros."""
    archive(path, b"\x80\x02}.")
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as out,
        out.open("archive/data/1", "w") as member,
    ):
        for _ in range(32):
            member.write(bytes(16 << 20))
    return path


def small_network() -> torch.nn.Module:
    return build_model(ModelSpec("wrn-10-1", 10, 1, 8, (0.0,), (1.0,)))


def with_tensor(path: Path, tensor: torch.Tensor) -> Path:
    """A network's weights beside a mean that says it is larger."""
    export_published(small_network(), "dat", path)
    torch.save({**torch.load(path), "mean": tensor}, path)
    return path


def model_folder(folder: Path, header: bytes | None = None, **changes: object) -> Path:
    folder.mkdir()
    save_model(small_network(), folder)
    spec = json.loads((folder / "model.json").read_text()) | changes
    (folder / "model.json").write_text(json.dumps(spec))
    if header is not None:
        (folder / "model.safetensors").write_bytes(header)
    return folder


def claimed(name: bytes, shape: tuple[int, ...]) -> bytes:
    """The head of an .npy file."""
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def statistics(path: Path, mu: bytes, *, compressed: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out:
        out.writestr("mu.npy", mu)
        with out.open("sigma.npy", "w", force_zip64=True) as member:
            member.write(claimed(b"sigma", (8192, 8192)))
            for _ in range(compressed):
                member.write(bytes(16 << 20))
    return path


def write_all(folder: Path) -> dict[str, Path]:
    torch.save({"model": {}, "optimizer": Evil()}, folder / "evil.pt")
    (folder / "plain.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    np.savez(folder / "objects.npz", mu=np.array([Evil()], dtype=object), sigma=np.eye(1))
    head = b'{"a":{"dtype":"F32","shape":[%d],"data_offsets":[0,4]}}' % 10**12
    return {
        "a call": folder / "evil.pt",
        "a call in a plain pickle": folder / "plain.pth",
        "a call of os.system": archive(folder / "os.pt", called("os", "system", 1)),
        "a terabyte of bytes": archive(folder / "bytes.pt", called("builtins", "bytearray", 10**12)),
        "more bytes than there are": archive(folder / "more.pt", called("builtins", "bytearray", 2**80)),
        "a tensor of a terabyte": archive(folder / "tensor.pt", called("torch", "Tensor", 10**12)),
        "marks without end": archive(folder / "marks.pt", b"\x80\x02" + b"(" * 10**5 + b"l" * 10**5 + b"."),
        "a packed archive": packed(folder / "packed.pt"),
        "a mean of a terabyte": with_tensor(folder / "mean.pt", torch.zeros(1).expand(10**6, 10**6)),
        "a header of a terabyte": model_folder(folder / "header", struct.pack("<Q", 1 << 40) + b"{}"),
        "a header that lies": model_folder(folder / "lies", struct.pack("<Q", len(head)) + head + bytes(4)),
        "a network of gigabytes": model_folder(folder / "wide", arch="wrn-28-99"),
        "millions of classes": model_folder(folder / "classes", num_classes=10**8),
        "millions of layers": model_folder(folder / "deep", arch="wrn-10000000-1"),
        "a pickle in the place of weights": model_folder(folder / "best", pickle.dumps(Evil())),
        "pickled statistics": folder / "objects.npz",
        "statistics of a terabyte": statistics(folder / "claims.npz", claimed(b"mu", (10**12,))),
        "packed statistics": statistics(folder / "packed.npz", claimed(b"mu", (2048,)), compressed=32),
    }


SAID = {
    "a call": "PickledObjectsError: .* \\((posix|nt).mkdir\\)",
    "a call in a plain pickle": "PickledObjectsError: .* \\((posix|nt).mkdir\\)",
    "a call of os.system": "PickledObjectsError: .* \\(os.system\\)",
    "a terabyte of bytes": "CheckpointError: .* MemoryError",
    "more bytes than there are": "CheckpointError: .* cannot fit 'int'",
    "a tensor of a terabyte": "CheckpointError: .* can't allocate memory",
    "marks without end": "PickledObjectsError: ",
    "a packed archive": "CheckpointError: .* it is packed, which torch.save never does",
    "a mean of a terabyte": "CheckpointError: .* mean has shape \\(1000000, 1000000\\)",
    "a header of a terabyte": "CheckpointError: .* is not a safetensors file",
    "a header that lies": "CheckpointError: .* is not a safetensors file",
    "a network of gigabytes": "CheckpointError: .* parameters, and model.safetensors fewer bytes",
    "millions of classes": "CheckpointError: .* parameters, and model.safetensors fewer bytes",
    "millions of layers": "CheckpointError: .*'wrn-10000000-1' is unknown",
    "a pickle in the place of weights": "CheckpointError: .* is not a safetensors file",
    "pickled statistics": "ValueError: .*allow_pickle=False",
    "statistics of a terabyte": "ValueError: is not an .npz file of numbers",
    "packed statistics": "ValueError: .*sigma.npy unpacks to 536,871,0",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    folder = tmp_path_factory.mktemp("checkpoints")
    mark = folder / "ran"
    os.environ["HOSTILE_MARK"] = str(mark)
    found = ask_each(ASK, write_all(folder))
    assert not mark.exists()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", SAID)
def test_refused_in_words(answers, name):
    assert re.match(SAID[name], answers[name].said), answers[name].said
    assert answers[name].megabytes < MEGABYTES


@pytest.mark.parametrize(
    ("objects", "said"),
    [(Evil(), "holds pickled objects besides tensors"), (argparse.Namespace(lr=0.1), "(argparse.Namespace)")],
    ids=["call", "namespace"],
)
def test_pickled_objects_are_named_with_the_way_out(objects, said, sources, save, tmp_path, monkeypatch):
    monkeypatch.setenv("HOSTILE_MARK", str(tmp_path / "ran"))
    message = refused(network("wrn-16-1"), save({"model": sources["wrn-16-1"].state_dict(), "args": objects}))
    assert said in message
    assert "torch.save({'model': torch.load('weights.pt', weights_only=False, pickle_module=dill)" in message


def test_files_from_before_archives(sources, images, tmp_path):
    model, source = network("wrn-16-1"), sources["wrn-16-1"]
    torch.save(source.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    load_published(model, tmp_path / "old.pth")
    assert_same_logits(model, source, images)


@pytest.mark.parametrize(
    "content",
    [b"", b"not torch", b"\xff" * 64, b"PK", b"PK\x03\x04" + b"\0" * 64, b"\x80", b"\x80\x02.", None],
    ids=["empty", "text", "bytes", "short-zip", "broken-zip", "short-pickle", "pickle", "truncated"],
)
def test_other_files_are_refused(sources, save, content):
    file = save(sources["wrn-16-1"].state_dict())
    file.write_bytes(file.read_bytes()[:-1000] if content is None else content)
    assert "is not a torch checkpoint that can be read" in refused(network("wrn-16-1"), file)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (torch.zeros(3), "has no state dict"),
        ({}, "has no state dict"),
        ({"model": None}, "has no state dict"),
        ({"epoch": 3, "weights": {"fc.bias": torch.zeros(3)}}, "'epoch' is of type int"),
        ({"state_dict": {"fc.bias": [0.0]}}, "'fc.bias' is of type list"),
        ({0: torch.zeros(3)}, "0 is of type Tensor"),
    ],
    ids=["tensor", "empty", "none", "other-key", "lists", "number-key"],
)
def test_other_contents_are_refused(save, content, reason):
    assert reason in refused(network("wrn-10-1"), save(content))
