"""Damage that is done to shards on purpose is found, and only that."""

import tarfile

import pytest

from data.check import find_damage
from tests.support.data_files import flip_bit, rows


def named(folder) -> list[str]:
    """The keys that the damage's lines begin with."""
    return [line.split(":")[0] for line in find_damage(folder)]


@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize("victim", [0, 5, 15])
def test_one_flipped_bit_names_one_sample(own_shards, victim, place):
    row = rows(own_shards.folder)[victim]
    offset = {"first": 0, "middle": row["size"] // 2, "last": row["size"] - 1}[place]
    flip_bit(own_shards.folder / row["shard"], row["offset"] + offset)
    (line,) = find_damage(own_shards.folder)
    assert line == f"{row['key']}: its image in {row['shard']} differs from the manifest"


def test_every_damaged_sample_is_named(own_shards):
    """Damages the image, its label, and its tar header, which precede it in the shard."""
    damaged = [rows(own_shards.folder)[index] for index in (1, 2, 9, 12)]
    for row, before in zip(damaged, (0, 1024, 512, 0), strict=True):
        flip_bit(own_shards.folder / row["shard"], row["offset"] - before)
    assert named(own_shards.folder) == [row["key"] for row in damaged]


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


def test_lost_and_emptied_shards_name_all_of_their_samples(own_shards):
    (own_shards.folder / "train-00001.tar").write_bytes(b"")
    (own_shards.folder / "train-00002.tar").unlink()
    lines = list(find_damage(own_shards.folder))
    assert [line.split(":")[0] for line in lines] == [f"train-{number:08d}" for number in range(4, 11)]
    assert lines[4:] == [f"train-{number:08d}: train-00002.tar is missing" for number in (8, 9, 10)]


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
