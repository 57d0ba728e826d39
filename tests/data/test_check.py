"""Damage that is done to shards on purpose is found, and only that."""

import json
import shutil
import tarfile

import pytest
import typer

from data.check import find_damage, main
from data.shards import MANIFEST_FILE, Dataset, read_manifest


def rows(folder) -> list[dict[str, object]]:
    return read_manifest(folder).to_pylist()


def named(folder) -> list[str]:
    """The keys that the damage's lines begin with."""
    return [line.split(":")[0] for line in find_damage(folder)]


def flip(path, offset: int) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[offset] ^= 1
    path.write_bytes(damaged)


def test_sound_shards(known_shards):
    assert list(find_damage(known_shards.folder)) == []


@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("victim", [0, 5, 10, 15])
def test_one_flipped_bit_names_one_sample(own_shards, victim, place):
    row = rows(own_shards.folder)[victim]
    offset = {"first": 0, "middle": row["size"] // 2, "last": row["size"] - 1}[place]
    flip(own_shards.folder / row["shard"], row["offset"] + offset)
    (line,) = find_damage(own_shards.folder)
    assert line == f"{row['key']}: its image in {row['shard']} differs from the manifest"


def test_every_damaged_sample_is_named(own_shards):
    victims = [rows(own_shards.folder)[index] for index in (1, 2, 9, 12)]
    for row in victims:
        flip(own_shards.folder / row["shard"], row["offset"])
    assert named(own_shards.folder) == [row["key"] for row in victims]


@pytest.mark.parametrize("before", [True, False], ids=["header", "label"])
def test_flipped_bit_beside_the_image_is_damage_too(own_shards, before):
    row = rows(own_shards.folder)[5]
    label = row["offset"] - 1024  # a block of the label's text, then a block of the image's header
    flip(own_shards.folder / row["shard"], row["offset"] - 512 if before else label)
    assert named(own_shards.folder) == [row["key"]]


@pytest.mark.parametrize("kept", [0, 0.5], ids=["before", "within"])
def test_truncated_shard_names_what_is_cut_off(own_shards, kept):
    cut = rows(own_shards.folder)[5]
    shard = own_shards.folder / cut["shard"]
    shard.write_bytes(shard.read_bytes()[: cut["offset"] + int(kept * cut["size"])])
    lines = list(find_damage(own_shards.folder))
    gone = [
        row["key"]
        for row in rows(own_shards.folder)
        if row["shard"] == cut["shard"] and row["offset"] >= cut["offset"]
    ]
    assert lines == [f"{key}: {cut['shard']} ends before it" for key in gone]


def test_emptied_shard_names_all_of_its_samples(own_shards):
    (own_shards.folder / "train-00001.tar").write_bytes(b"")
    assert named(own_shards.folder) == [f"train-{number:08d}" for number in range(4, 8)]


def test_deleted_shard_names_all_of_its_samples(own_shards):
    (own_shards.folder / "train-00002.tar").unlink()
    lines = list(find_damage(own_shards.folder))
    assert lines == [f"train-{number:08d}: train-00002.tar is missing" for number in (8, 9, 10)]


def test_swapped_shards_are_found(own_shards):
    first, second = (own_shards.folder / f"train-0000{number}.tar" for number in (0, 1))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    assert named(own_shards.folder) == [f"train-{number:08d}" for number in range(8)]


def test_copy_is_sound(known_shards, copy_folder):
    assert list(find_damage(copy_folder(known_shards.folder))) == []


def test_command_accepts_sound_shards(own_shards, run_python):
    done = run_python("-m", "data.check", own_shards.folder, "--json")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout) == {"folder": str(own_shards.folder), "damaged": []}


def test_command_exits_1_and_names_the_damage(own_shards, run_python):
    row = rows(own_shards.folder)[3]
    flip(own_shards.folder / row["shard"], row["offset"])
    done = run_python("-m", "data.check", own_shards.folder, "--json")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = json.loads(done.stdout)["damaged"]
    assert line.startswith(f"{row['key']}: ")


def test_command_exits_2_without_a_manifest(tmp_path, run_python):
    done = run_python("-m", "data.check", tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert line == f"error: {tmp_path}: no {MANIFEST_FILE} in it; give a folder of prepared shards"


def test_command_says_that_shards_are_sound(known_shards, capsys):
    with pytest.raises(typer.Exit) as caught:
        main(str(known_shards.folder))
    assert caught.value.exit_code == 0
    assert capsys.readouterr().out == f"{known_shards.folder}: sound\n"


def test_command_prints_a_line_for_each_damaged_sample(own_shards, capsys):
    shutil.move(own_shards.folder / "test-00001.tar", own_shards.folder / "lost.tar")
    with pytest.raises(typer.Exit) as caught:
        main(str(own_shards.folder))
    assert caught.value.exit_code == 1
    assert capsys.readouterr().out.splitlines() == [
        "test-00000004: test-00001.tar is missing",
        f"{own_shards.folder}: 1 damaged samples; prepare them into a new folder",
    ]


@pytest.mark.parametrize("cut", [slice(0, 0), slice(0, 200)], ids=["empty", "cut"])
def test_command_refuses_what_is_no_manifest(own_shards, capsys, cut):
    path = own_shards.folder / MANIFEST_FILE
    path.write_bytes(path.read_bytes()[cut])
    with pytest.raises(typer.Exit) as caught:
        main(str(own_shards.folder))
    assert caught.value.exit_code in (1, 2)
    assert capsys.readouterr().err.startswith(f"error: {path}: not a readable manifest: ")


def test_command_refuses_a_damaged_manifest(own_shards, capsys):
    path = own_shards.folder / MANIFEST_FILE
    damaged = bytearray(path.read_bytes())
    damaged[4:200] = bytes(196)
    path.write_bytes(damaged)
    with pytest.raises(typer.Exit) as caught:
        main(str(own_shards.folder))
    assert caught.value.exit_code in (1, 2)
    assert capsys.readouterr().err.startswith(f"error: {path}: ")


def test_another_image_size_is_damage(own_shards):
    dataset = Dataset.read(own_shards.folder)
    dataset.image_size += 1
    dataset.write(own_shards.folder)
    assert any("says 7 pixels a side, the manifest 6" in line for line in find_damage(own_shards.folder))


def test_whole_frames_are_sound(known_frames):
    assert list(find_damage(known_frames.folder)) == []


@pytest.mark.parametrize("victim", [0, 3, 5])
def test_damage_to_whole_frames_is_found(known_frames, victim):
    row = rows(known_frames.folder)[victim]
    flip(known_frames.folder / row["shard"], row["offset"] + row["size"] // 2)
    assert list(find_damage(known_frames.folder)) == [
        f"{row['key']}: its image in {row['shard']} differs from the manifest"
    ]


@pytest.mark.parametrize("place", [-512, -1024], ids=["header", "label"])
def test_damage_beside_a_whole_frame_is_found(known_frames, place):
    row = rows(known_frames.folder)[2]
    flip(known_frames.folder / row["shard"], row["offset"] + place)
    assert named(known_frames.folder) == [row["key"]]


def test_a_suffix_other_than_the_manifests_is_damage(own_shards):
    row = rows(own_shards.folder)[5]
    shard = own_shards.folder / row["shard"]
    before = f"{row['key']}.png".encode()
    content = bytearray(shard.read_bytes())
    start = content.index(before)
    header = tarfile.TarInfo.frombuf(bytes(content[start : start + 512]), "utf-8", "strict")
    header.name = header.name.replace(".png", ".jpg")
    content[start : start + 512] = header.tobuf(tarfile.USTAR_FORMAT)
    shard.write_bytes(content)
    assert named(own_shards.folder) == [row["key"]]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (None, "dataset.json is missing"),
        ({"sha256": "0" * 64}, "manifest.parquet differs from the digest"),
        ({"classes": ["a", "x", "c"]}, "dataset.json calls class 1 'x', the manifest 'b'"),
        ({"classes": ["a"]}, "dataset.json calls class 1 None, the manifest 'b'"),
    ],
    ids=["missing", "digest", "renamed", "lost"],
)
def test_a_description_that_does_not_fit_is_damage(own_shards, change, told):
    file = own_shards.folder / "dataset.json"
    if change is None:
        file.unlink()
    else:
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert told in next(find_damage(own_shards.folder))
