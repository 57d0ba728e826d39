"""Exported arrays and pictures are the shards' images, in the manifest's order, whole or not there."""

import io
import json
import re
import shlex
import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image

import data
from data import writers
from data.decode import encode_png
from data.export import main
from data.folders import UNFINISHED
from data.images import open_images
from data.shards import Dataset, Encoded, read_manifest, write_manifest, write_split
from data.writers import write_npz, write_pngs

README = (Path(data.__file__).parent / "README.md").read_text(encoding="utf-8")
WRITERS = pytest.mark.parametrize("write", [write_npz, write_pngs], ids=["npz", "png"])
OPTIONS = pytest.mark.parametrize("option", ["npz", "png"])


@pytest.fixture(autouse=True)
def several_batches(monkeypatch):
    monkeypatch.setattr(writers, "_BATCH_BYTES", 500)  # four RGB images of 6x6, or thirteen grey ones


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """(N, C, H, W) to (N, H, W, 3)."""
    return np.repeat(pixels, 3 // pixels.shape[1], axis=1).transpose(0, 2, 3, 1)


def make_samples(folder: Path, labels: list[int], others: int = 0) -> np.ndarray:
    """Shards of a split 'samples', and of 'others' that many. Returns the samples' pixels (N, 1, 6, 6)."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 1, 6, 6), dtype=np.uint8)
    payloads = [encode_png(Image.fromarray(image[0])) for image in pixels]
    rows, counts = [], {}
    for split, num in (("samples", len(labels)), ("others", others)):
        images = [
            Encoded(
                f"{split}-{n}",
                payloads[n],
                labels[n],
                "ab"[labels[n]] if labels[n] >= 0 else "",
                split,
                6,
                6,
                "",
            )
            for n in range(num)
        ]
        rows += write_split(folder, split, images, 3)
        counts |= {split: num} if num else {}
    Dataset(1, 6, ["a", "b"], counts=counts, sha256=write_manifest(folder, rows)).write(folder)
    return pixels


def refusal(capsys, *arguments, code=2, **options) -> str:
    """The one line that the command prints before it exits with `code`."""
    with pytest.raises(typer.Exit) as caught:
        main(*map(str, arguments), **{name: str(value) for name, value in options.items()})
    assert caught.value.exit_code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def flip(path: Path, offset: int) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[offset] ^= 1
    path.write_bytes(damaged)


@pytest.mark.parametrize("split", ["train", "test"])
def test_npz_holds_the_images_and_labels(known_shards, tmp_path, split):
    write_npz(tmp_path / "new" / "a.npz", *open_images(known_shards.folder, split))
    with np.load(tmp_path / "new" / "a.npz") as made:
        assert set(made.files) == {"arr_0", "arr_1"}
        assert (made["arr_0"].dtype, made["arr_1"].dtype) == (np.uint8, np.int64)
        assert np.array_equal(made["arr_0"], as_rgb(known_shards.pixels[split]))
        assert made["arr_1"].tolist() == known_shards.labels[split]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.npz"]


def test_npz_is_streamed_as_the_evaluator_does(own_shards, tmp_path):
    """evaluations/evaluator.py: a header of version 1.0 or 2.0, C order, then images by their bytes."""
    write_npz(tmp_path / "a.npz", *open_images(own_shards.folder, "train"))
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert archive.testzip() is None
        stored = {(info.compress_type, info.date_time) for info in archive.infolist()}
        assert stored == {(zipfile.ZIP_STORED, (1980, 1, 1, 0, 0, 0))}
        with archive.open("arr_0.npy") as member:
            assert np.lib.format.read_magic(member) == (1, 0)
            header = np.lib.format.read_array_header_1_0(member)
            assert header == ((11, 6, 6, 3), False, np.dtype(np.uint8))
            assert member.read(6 * 6 * 3) == as_rgb(own_shards.pixels["train"])[0].tobytes()


def test_npz_is_what_numpy_writes(own_shards, tmp_path):
    write_npz(tmp_path / "a.npz", *open_images(own_shards.folder, "train"))
    expected = io.BytesIO()
    np.savez(
        expected, as_rgb(own_shards.pixels["train"]), np.array(own_shards.labels["train"], dtype=np.int64)
    )
    with zipfile.ZipFile(tmp_path / "a.npz") as made, zipfile.ZipFile(expected) as theirs:
        assert made.namelist() == theirs.namelist()
        assert [made.read(name) for name in made.namelist()] == [
            theirs.read(name) for name in theirs.namelist()
        ]


def test_npz_has_the_same_bytes_again_and_in_other_batches(own_shards, tmp_path, monkeypatch):
    images, labels = open_images(own_shards.folder, "train")
    write_npz(tmp_path / "a.npz", images, labels)
    monkeypatch.setattr(writers, "_BATCH_BYTES", 1 << 20)
    write_npz(tmp_path / "b.npz", images, labels)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize(
    ("labels", "kept"), [([-1, -1, -1, -1], None), ([0, -1, 1, -1], [0, -1, 1, -1])], ids=["none", "some"]
)
def test_unlabelled_images(tmp_path, labels, kept):
    pixels = make_samples(tmp_path / "in", labels)
    main(str(tmp_path / "in"), npz=str(tmp_path / "a.npz"), png=str(tmp_path / "png"))
    with np.load(tmp_path / "a.npz") as made:
        assert np.array_equal(made["arr_0"], as_rgb(pixels))
        assert (made["arr_1"].tolist() if "arr_1" in made.files else None) == kept
    names = [f"00000{n}.png" if y < 0 else f"00000{n}_{y}.png" for n, y in enumerate(labels)]
    assert sorted(path.name for path in (tmp_path / "png").iterdir()) == names


@pytest.mark.parametrize("there", [False, True], ids=["new", "empty"])
def test_pngs_are_the_images(known_shards, tmp_path, there):
    folder = tmp_path / "new" / "png"
    if there:
        folder.mkdir(parents=True)
    write_pngs(folder, *open_images(known_shards.folder, "train"))
    pixels, labels = known_shards.pixels["train"], known_shards.labels["train"]
    assert sorted(p.name for p in folder.iterdir()) == [f"{n:06d}_{y}.png" for n, y in enumerate(labels)]
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        made = np.asarray(Image.open(folder / f"{number:06d}_{label}.png"))
        assert np.array_equal(made, image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    assert [path.name for path in folder.parent.iterdir()] == ["png"]


def test_whole_frames_come_out_as_the_test_view(known_frames, tmp_path):
    main(str(known_frames.folder), npz=str(tmp_path / "a.npz"))
    expected, _ = open_images(known_frames.folder, "train")
    with np.load(tmp_path / "a.npz") as made:
        assert made["arr_0"].shape == (6, 16, 16, 3)
        assert np.array_equal(made["arr_0"], as_rgb(expected.get(range(6)).numpy()))


def test_command_leaves_the_shards_alone(own_shards, tmp_path):
    before = sorted(own_shards.folder.iterdir())
    main(str(own_shards.folder), split="test", npz=str(tmp_path / "a.npz"), png=str(tmp_path / "png"))
    assert sorted(own_shards.folder.iterdir()) == before


@pytest.mark.parametrize("others", [0, 2], ids=["the only one", "samples"])
def test_split_that_is_taken_without_asking(tmp_path, capsys, others):
    make_samples(tmp_path / "in", [0, 1, 0, 1], others)
    main(str(tmp_path / "in"), png=str(tmp_path / "png"), as_json=True)
    told = {"split": "samples", "num_images": 4, "npz": None, "png": str(tmp_path / "png")}
    assert json.loads(capsys.readouterr().out) == told


@pytest.mark.parametrize(
    ("options", "told"), [({}, "not given"), ({"split": "val"}, "val")], ids=["none", "unknown"]
)
def test_split_must_be_one_that_is_there(own_shards, tmp_path, capsys, options, told):
    line = refusal(capsys, own_shards.folder, npz=tmp_path / "a.npz", **options)
    assert line == f"error: --split: {told}; use train or test"


@OPTIONS
@pytest.mark.parametrize("there", ["file", "folder"])
def test_what_exists_is_not_replaced(own_shards, tmp_path, capsys, option, there):
    target = tmp_path / "a"
    kept = target if there == "file" else target / "file"
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("kept")
    line = refusal(capsys, own_shards.folder, split="test", **{option: target})
    assert line == f"error: --{option}: {target} exists; give a new {'file' if option == 'npz' else 'folder'}"
    assert kept.read_text() == "kept"


@OPTIONS
def test_place_that_cannot_be_written(own_shards, tmp_path, capsys, option):
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "a"
    line = refusal(capsys, own_shards.folder, split="test", **{option: target})
    assert line == f"error: --{option}: {target} cannot be written; give a place in a folder that can"


@OPTIONS
def test_write_that_fails_in_the_middle(own_shards, tmp_path, capsys, option):
    target = tmp_path / ("a" * 250)  # the unfinished one's name is too long
    line = refusal(capsys, own_shards.folder, split="test", **{option: target})
    assert line.startswith(f"error: --{option}: {target} cannot be written: ")
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


@OPTIONS
def test_target_is_no_address(own_shards, capsys, option):
    line = refusal(capsys, own_shards.folder, split="test", **{option: "s3://user:planted@bucket/a"})
    assert line == f"error: --{option}: s3://***@bucket/a; use a local path"


@pytest.mark.parametrize("inside", ["", "png"], ids=["same", "below"])
def test_one_target_is_not_the_others_folder(own_shards, tmp_path, capsys, inside):
    targets = {"npz": tmp_path / "a", "png": tmp_path / "a" / inside}
    assert refusal(capsys, own_shards.folder, split="test", **targets).startswith("error: --npz: ")
    assert not (tmp_path / "a").exists()


def test_some_target_is_needed(own_shards, capsys):
    line = refusal(capsys, own_shards.folder)
    assert line == "error: --npz, --png: neither is given; give one or both"


@pytest.mark.parametrize("there", ["nothing", "folder", "file"])
def test_shards_must_be_there(tmp_path, capsys, there):
    place = tmp_path / "in"
    if there == "folder":
        place.mkdir()
    elif there == "file":
        place.write_text("")
    line = refusal(capsys, place, npz=tmp_path / "a.npz")
    assert line.startswith(f"error: SHARDS: {place} holds no finished shards; give a folder")


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
@OPTIONS
def test_damage_is_named_and_nothing_is_written(own_shards, tmp_path, capsys, option, damage):
    row = read_manifest(own_shards.folder, "train").to_pylist()[5]
    shard, told = own_shards.folder / row["shard"], row["key"]
    if damage == "flipped":
        flip(shard, row["offset"] + row["size"] // 2)
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[: row["offset"] + 10])
    else:
        shard.unlink()
        told = "train-00000004"  # the shard's first
    line = refusal(capsys, own_shards.folder, code=1, split="train", **{option: tmp_path / "new" / "a"})
    assert line.startswith(f"error: {own_shards.folder}: {told}: ")
    assert not (tmp_path / "new").exists()


def test_damage_to_another_split_does_not_matter(own_shards, tmp_path):
    (own_shards.folder / "train-00000.tar").unlink()
    main(str(own_shards.folder), split="test", npz=str(tmp_path / "a.npz"))


def test_manifest_that_cannot_be_read(own_shards, tmp_path, capsys):
    (own_shards.folder / "manifest.parquet").write_bytes(b"PAR1")
    refusal(capsys, own_shards.folder, code=1, split="test", npz=tmp_path / "a.npz")


class Failing:
    """Five grey images, of which the last cannot be read: `fail` is called instead."""

    shards = centre = None

    def __init__(self, fail) -> None:
        self.fail = fail

    def __len__(self) -> int:
        return 5

    def get(self, indices, crops=None) -> torch.Tensor:
        if 4 in indices:
            self.fail()
        return torch.zeros(len(indices), 1, 20, 20, dtype=torch.uint8)


@WRITERS
@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_failure_leaves_nothing(tmp_path, write, error):
    def fail() -> None:
        assert [path.name.startswith(".a.") for path in tmp_path.iterdir()] == [True]
        raise error("planted")

    with pytest.raises(error, match="planted"):
        write(tmp_path / "a", Failing(fail), torch.zeros(5, dtype=torch.int64))
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from data.writers import write_npz, write_pngs
from tests.data.test_export import Failing

fail = lambda: os.kill(os.getpid(), signal.SIGKILL)
{"npz": write_npz, "png": write_pngs}[sys.argv[1]](Path(sys.argv[2]), Failing(fail), torch.zeros(5).long())
"""


@OPTIONS
def test_kill_leaves_nothing_under_the_name(tmp_path, run_python, option):
    done = run_python("-c", KILLED, option, tmp_path / "a")
    assert done.returncode == -signal.SIGKILL, done.stderr
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".a.")
    assert left.name.endswith(UNFINISHED)


@WRITERS
@pytest.mark.parametrize(
    "labels", [torch.zeros(10).long(), torch.zeros(11), torch.zeros(11, 1).long()], ids=["few", "float", "2d"]
)
def test_labels_must_fit(own_shards, tmp_path, write, labels):
    images, _ = open_images(own_shards.folder, "train")
    with pytest.raises(ValueError, match=r"labels: \(.*; give \(11,\) torch.int64"):
        write(tmp_path / "a", images, labels)
    assert not (tmp_path / "a").exists()


def test_progress_is_told(own_shards, tmp_path):
    told = []
    write_npz(tmp_path / "a.npz", *open_images(own_shards.folder, "train"), lambda *done: told.append(done))
    assert told == [(4, 11), (8, 11), (11, 11)]


def test_command_of_the_readme(own_shards, tmp_path, run_python):
    (command,) = re.findall(r"^python (-m data\.export .*?) *(?:#.*)?$", README, flags=re.MULTILINE)
    places = {"SHARDS": own_shards.folder, "IMAGES.npz": tmp_path / "a.npz", "PICTURES": tmp_path / "png"}
    words = [places.get(word, word) for word in shlex.split(command)]
    assert set(places.values()) <= set(words)
    done = run_python(*words)
    told = f"{own_shards.folder}: 5 images of its split test in {tmp_path / 'a.npz'} and {tmp_path / 'png'}\n"
    assert (done.returncode, done.stdout) == (0, told), done.stderr
    assert "Traceback" not in done.stderr
    with np.load(tmp_path / "a.npz") as made:
        assert np.array_equal(made["arr_0"], as_rgb(own_shards.pixels["test"]))
    assert len(list((tmp_path / "png").iterdir())) == 5
