"""The command that writes shards' images for other tools: splits, targets, damage."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer

import data
from data.export import main
from data.shards import read_manifest
from tests.support.data_files import contents, flip_bit
from tests.support.pixels import as_rgb, random_images
from tests.support.shards import write_known_shards

README = (Path(data.__file__).parent / "README.md").read_text(encoding="utf-8")
OPTIONS = pytest.mark.parametrize("option", ["npz", "png"])


def make_samples(folder: Path, labels: list[int], others: int = 0) -> np.ndarray:
    """Shards of a split 'samples', and of 'others' that many. Returns the samples' pixels (N, 1, 6, 6)."""
    pixels = random_images(len(labels), 1, 6, 6).numpy()
    splits = {"samples": pixels} | ({"others": pixels[:others]} if others else {})
    write_known_shards(folder, splits, {"samples": labels, "others": labels[:others]})
    return pixels


def refusal(capsys, *arguments, code=2, **options) -> str:
    """The one line that the command prints before it exits with `code`."""
    with pytest.raises(typer.Exit) as caught:
        main(*map(str, arguments), **{name: str(value) for name, value in options.items()})
    assert caught.value.exit_code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


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


@pytest.mark.parametrize("others", [0, 2], ids=["the only one", "samples"])
def test_split_that_is_taken_without_asking(tmp_path, capsys, others):
    make_samples(tmp_path / "in", [0, 1, 0, 1], others)
    main(str(tmp_path / "in"), png=str(tmp_path / "png"), as_json=True)
    told = {"split": "samples", "num_images": 4, "npz": None, "png": str(tmp_path / "png")}
    assert json.loads(capsys.readouterr().out) == told


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
    (tmp_path / "file").touch()
    line = refusal(capsys, own_shards.folder, split="test", **{option: tmp_path / "file/a"})
    place = f"--{option}: {tmp_path / 'file/a'}"
    assert line == f"error: {place} cannot be written; give a place in a folder that can"


@OPTIONS
def test_write_that_fails_in_the_middle(own_shards, tmp_path, capsys, option):
    target = tmp_path / ("a" * 250)  # the unfinished one's name is too long
    line = refusal(capsys, own_shards.folder, split="test", **{option: target})
    assert line.startswith(f"error: --{option}: {target} cannot be written: ")
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "--npz, --png: neither is given; give one or both"),
        ({"npz": "a"}, "--split: not given; use train or test"),
        ({"npz": "a", "split": "val"}, "--split: val; use train or test"),
        ({"npz": "s3://user:planted@bucket/a"}, "--npz: s3://***@bucket/a; use a local path"),
        ({"png": "s3://user:planted@bucket/a"}, "--png: s3://***@bucket/a; use a local path"),
        ({"npz": "a", "png": "a"}, "--npz: a is a folder of --png a; give another file"),
        ({"npz": "a", "png": "a/png"}, "--npz: a is a folder of --png a/png; give another file"),
    ],
)
def test_bad_usage_is_one_line_and_writes_nothing(own_shards, tmp_path, capsys, monkeypatch, options, told):
    monkeypatch.chdir(tmp_path)
    assert refusal(capsys, own_shards.folder, **options) == f"error: {told}"
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


@pytest.mark.parametrize(
    "write", [lambda place: None, Path.mkdir, Path.touch], ids=["nothing", "folder", "file"]
)
def test_shards_must_be_there(tmp_path, capsys, write):
    write(tmp_path / "in")
    line = refusal(capsys, tmp_path / "in", npz=tmp_path / "a.npz")
    assert line.startswith(f"error: SHARDS: {tmp_path / 'in'} holds no finished shards; give a folder")


def test_damage_is_named_and_nothing_is_written(own_shards, tmp_path, capsys):
    row = read_manifest(own_shards.folder, "train").to_pylist()[5]
    flip_bit(own_shards.folder / row["shard"], row["offset"] + row["size"] // 2)
    line = refusal(capsys, own_shards.folder, code=1, split="train", npz=tmp_path / "new" / "a")
    assert line.startswith(f"error: {own_shards.folder}: {row['key']}: ")
    assert not (tmp_path / "new").exists()


def test_damage_to_another_split_does_not_matter_and_shards_are_left_alone(own_shards, tmp_path):
    (own_shards.folder / "train-00000.tar").unlink()
    before = contents(own_shards.folder)
    main(str(own_shards.folder), split="test", npz=str(tmp_path / "a.npz"), png=str(tmp_path / "png"))
    assert contents(own_shards.folder) == before


def test_manifest_that_cannot_be_read(own_shards, tmp_path, capsys):
    (own_shards.folder / "manifest.parquet").write_bytes(b"PAR1")
    refusal(capsys, own_shards.folder, code=1, split="test", npz=tmp_path / "a.npz")


@pytest.mark.slow
def test_command_of_the_readme(own_shards, tmp_path, run_python):
    (command,) = re.findall(r"^python (-m data\.export .*?) *(?:#.*)?$", README, flags=re.MULTILINE)
    places = {"SHARDS": own_shards.folder, "IMAGES.npz": tmp_path / "a.npz", "PICTURES": tmp_path / "png"}
    words = [places.get(word, word) for word in shlex.split(command)]
    assert set(places.values()) <= set(words)
    done = run_python(*words)
    told = f"{own_shards.folder}: 5 images of its split test in {tmp_path / 'a.npz'} and {tmp_path / 'png'}\n"
    assert (done.returncode, done.stdout) == (0, told), done.stderr
    with np.load(tmp_path / "a.npz") as made:
        assert np.array_equal(made["arr_0"], as_rgb(own_shards.pixels["test"]))
    assert len(list((tmp_path / "png").iterdir())) == 5
