"""Building shards: by any number of processes, cut short anywhere, onto disks and object stores."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data
from data.build import SMALL, BadImagesError, build, here, over_processes
from data.check import find_damage
from data.folders import PARTS, FolderError, as_folder
from data.images import ShardImages, open_images
from data.part import Job
from data.shards import DATASET_FILE, read_manifest
from data.sources.base import Item, Source, SourceError, folder_source
from data.sources.named import open_source
from tests.support.planted import SECRET_KEY


def job(**changes) -> Job:
    defaults = {"channels": 3, "image_size": 4, "seed": 0, "test_fraction": 0.25, "max_bad_fraction": 0.0}
    return Job(**{**defaults, "shard_mb": 0.007, **changes})  # a few images a shard


@pytest.fixture
def pets(tmp_path, write_images) -> Source:
    return folder_source(
        write_images(tmp_path / "in", *(f"{own}/{n}.png" for own in "ab" for n in range(12)))
    )


def contents(place) -> dict[str, str]:
    folder = as_folder(place)
    return {name: hashlib.sha256(folder.read(name)).hexdigest() for name in folder.names()}


def test_any_number_of_processes_writes_the_same_bytes(tmp_path, pets):
    for name, spread in (("one", here), ("two", over_processes(2)), ("three", over_processes(3))):
        build(pets, tmp_path / name, job(), spread=spread)
    one = contents(tmp_path / "one")
    assert len([name for name in one if name.endswith(".tar")]) > 5
    assert one == contents(tmp_path / "two") == contents(tmp_path / "three")


def test_order_in_which_shards_are_finished_does_not_matter(tmp_path, pets):
    build(pets, tmp_path / "forwards", job())
    build(pets, tmp_path / "backwards", job(), spread=lambda tasks: (t.make() for t in reversed(list(tasks))))
    assert contents(tmp_path / "forwards") == contents(tmp_path / "backwards")


def test_shard_size_is_about_what_was_asked_for(tmp_path):
    images = [
        Image.fromarray(np.random.default_rng(n).integers(0, 256, (32, 32, 3), np.uint8)) for n in range(64)
    ]
    items = tuple(Item(str(n), "a", None, image.copy) for n, image in enumerate(images))
    build(Source("plain", "0", lambda: items), tmp_path / "out", job(image_size=32, shard_mb=0.05))
    sizes = [path.stat().st_size for path in sorted((tmp_path / "out").glob("train-*.tar"))]
    assert len(sizes) > 3
    assert all(45_000 < size < 61_000 for size in sizes[:-1])


def test_cut_short_it_goes_on_with_the_missing_shards(tmp_path, pets):
    build(pets, tmp_path / "whole", job())
    made = []

    def stops_after_three(tasks):
        for task in tasks:
            if len(made) == 3:
                raise KeyboardInterrupt
            made.append(task.name)
            yield task.make()

    with pytest.raises(KeyboardInterrupt):
        build(pets, tmp_path / "out", job(), spread=stops_after_three)
    assert not (tmp_path / "out" / DATASET_FILE).exists()
    kept = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in made}
    build(pets, tmp_path / "out", job())
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in made} == kept
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    "damage", ["shard cut", "shard lost", "shard flipped", "part cut", "part lost", "part flipped"]
)
def test_a_shard_that_is_not_whole_is_written_again(tmp_path, pets, damage):
    build(pets, tmp_path / "whole", job())

    def ends(tasks):
        yield from (task.make() for task in tasks)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(pets, tmp_path / "out", job(), spread=ends)
    kind, what = damage.split()
    name = "train-00001.tar"
    file = tmp_path / "out" / (name if kind == "shard" else f"{PARTS}/{name}.parquet")
    if what == "lost":
        file.unlink()
    elif what == "flipped":
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    build(pets, tmp_path / "out", job())
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("change", ["altered", "added", "removed"])
def test_a_source_that_changes_while_it_is_read_is_noticed(tmp_path, write_images, change):
    names = [f"{own}/{n}.png" for own in "ab" for n in range(12)]
    source = open_source(str(write_images(tmp_path / "in", *names)), ".")

    def meddle(done: int, total: int) -> None:
        file = tmp_path / "in" / "a" / ("new.png" if change == "added" else "0.png")
        file.unlink() if change == "removed" and file.exists() else file.write_bytes(b"other")

    with pytest.raises(
        (SourceError, BadImagesError), match=r"was changed while it was read|cannot be decoded"
    ):
        build(source, tmp_path / "out", job(max_bad_fraction=1.0), progress=meddle)
    assert not (tmp_path / "out" / DATASET_FILE).exists()


def test_two_builds_into_one_folder_at_once_are_refused(tmp_path, pets):
    def build_again(done: int, total: int) -> None:
        with pytest.raises(FolderError, match="is being written by another process"):
            build(pets, tmp_path / "out", job())

    build(pets, tmp_path / "out", job(), progress=build_again)
    assert not list((tmp_path / "out").glob(".*"))
    build(pets, tmp_path / "other", job())
    assert contents(tmp_path / "out") == contents(tmp_path / "other")


def test_a_disk_that_is_too_small_is_noticed_at_once(tmp_path, pets, monkeypatch):
    build(pets, tmp_path / "whole", job())
    size = sum(file.stat().st_size for file in (tmp_path / "whole").glob("*.tar"))
    full = shutil.disk_usage(tmp_path)._replace(free=size // 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(SourceError, match=r"has 0 MB free and the shards take about 0 MB; free some"):
        build(pets, tmp_path / "out", job(), spread=None)
    build(pets, tmp_path / "few", job(max_images=2))


def test_what_killed_processes_left_goes_first(tmp_path, pets):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".train-00000.tar.0123.unfinished").write_bytes(b"part")

    def nothing(tasks):
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        build(pets, tmp_path / "out", job(), spread=nothing)
    assert not list((tmp_path / "out").glob("*.unfinished"))


def test_what_an_interrupt_after_the_end_left_is_cleared(tmp_path, pets, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("data.build._clear", lambda out: None)
        build(pets, tmp_path / "out", job())
    for part in (tmp_path / "out" / PARTS).glob("*.parquet"):
        part.unlink()  # as if killed in the middle of clearing
        break
    build(pets, tmp_path / "out", job())
    assert not (tmp_path / "out" / PARTS).exists()


def test_a_finished_build_is_reused(tmp_path, pets):
    first = build(pets, tmp_path / "out", job())
    assert build(pets, tmp_path / "out", job(), spread=None) == first


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"image_size": 5}, {"encoding": "webp"}, {"shard_mb": 1.0}], ids=str
)
def test_shards_of_another_job_are_refused(tmp_path, pets, change, finished):
    def nothing(tasks):
        raise KeyboardInterrupt
        yield

    if finished:
        build(pets, tmp_path / "out", job())
    else:
        with pytest.raises(KeyboardInterrupt):
            build(pets, tmp_path / "out", job(), spread=nothing)
    before = contents(tmp_path / "out")
    with pytest.raises(SourceError, match=f"holds .*shards of other {next(iter(change))}; give a new folder"):
        build(pets, tmp_path / "out", job(**change))
    assert contents(tmp_path / "out") == before


def test_more_tolerance_for_bad_images_is_no_other_job(tmp_path, pets):
    build(pets, tmp_path / "out", job())
    build(pets, tmp_path / "out", job(max_bad_fraction=0.5))


def test_sigkill_in_the_middle_loses_no_finished_shard(tmp_path, write_images):
    images = write_images(tmp_path / "in", *(f"a/{n}.png" for n in range(SMALL + 400)))
    arguments = ["-m", "data.prepare", images, "--image-size", "64", "--shard-mb", "0.1", "--processes", "2"]
    root = Path(data.__file__).parents[1]

    def command(out: Path) -> list[str]:
        return [sys.executable, *map(str, arguments), "--out", str(out)]

    process = subprocess.Popen(command(tmp_path / "out"), cwd=root, start_new_session=True)
    parts = tmp_path / "out" / PARTS
    deadline = time.monotonic() + 100
    while len(list(parts.glob("[!.]*.parquet"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = {path.stem for path in parts.glob("[!.]*.parquet")}
    assert finished
    assert not (tmp_path / "out" / DATASET_FILE).exists()
    kept = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in finished}
    subprocess.run(command(tmp_path / "out"), cwd=root, check=True)
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in finished} == kept
    subprocess.run(command(tmp_path / "whole"), cwd=root, check=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_object_store_holds_the_same_bytes(tmp_path, pets, bucket):
    build(pets, tmp_path / "local", job())
    build(pets, bucket, job())
    assert contents(bucket) == contents(tmp_path / "local")


def test_object_store_is_checked_and_streamed(tmp_path, pets, bucket):
    build(pets, bucket, job())
    build(pets, tmp_path / "local", job())
    assert list(find_damage(bucket)) == []
    for split in ("train", "test"):
        expected, labels = open_images(tmp_path / "local", split)
        images, remote_labels = open_images(bucket, split)
        assert labels.equal(remote_labels)
        everything = range(len(labels))
        assert images.get(everything).equal(expected.get(everything))
        streamed = ShardImages(bucket, split)
        assert streamed.get([2, 0, 1]).equal(expected.get([2, 0, 1]))
        assert streamed.shards is not None
        assert streamed.shards.sum() == len(labels)


def test_damage_on_an_object_store_is_named(pets, bucket):
    build(pets, bucket, job())
    folder = as_folder(bucket)
    (row,) = (row for row in read_manifest(bucket).to_pylist() if row["key"] == "train-00000003")
    content = bytearray(folder.read(row["shard"]))
    content[row["offset"] + 5] ^= 1
    folder.write(row["shard"], bytes(content))
    (line,) = find_damage(bucket)
    assert line.startswith("train-00000003: ")


def test_commands_take_object_stores_and_keep_secrets(pets, bucket, run_python):
    for arguments in (
        ("-m", "data.prepare", pets.name, "--out", bucket, "--image-size", "4", "--json"),
        ("-m", "data.check", bucket),
        ("-m", "data.check", bucket.replace("shards", "none")),
        ("-m", "data.prepare", pets.name, "--out", bucket.replace("bucket", "no-such"), "--image-size", "4"),
        ("-m", "data.prepare", pets.name, "--out", bucket, "--image-size", "5"),
    ):
        done = run_python(*arguments)
        assert SECRET_KEY not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        if "none" in arguments[-1]:
            assert done.returncode == 2
    assert done.returncode == 2
    assert "; give a new folder" in done.stderr
    assert SECRET_KEY not in as_folder(bucket).read(DATASET_FILE).decode()


def test_identical_images_under_two_labels_are_named(tmp_path, write_images, run_python):
    write_images(
        tmp_path / "in",
        *(f"{split}/{own}/{n}.png" for split in ("train", "test") for own in "ab" for n in "123"),
    )
    copies = {
        "train/b/copy.png": "train/a/1.png",
        "test/a/leak.png": "train/a/2.png",
        "train/a/same.png": "train/a/3.png",
    }
    for copy, original in copies.items():
        (tmp_path / "in" / copy).write_bytes((tmp_path / "in" / original).read_bytes())
    dataset = build(folder_source(tmp_path / "in"), tmp_path / "out", job())
    told = sorted(
        sorted(zip(g["sources"], g["classes"], g["splits"], strict=True)) for g in dataset.identical
    )
    assert told == [
        [("test/a/leak.png", "a", "test"), ("train/a/2.png", "a", "train")],
        [("train/a/1.png", "a", "train"), ("train/b/copy.png", "b", "train")],
    ]
    done = run_python("-m", "data.prepare", tmp_path / "in", "--out", tmp_path / "again", "--image-size", "4")
    assert done.stderr.count("identical images: ") == 2
    assert "train/b/copy.png (b, train)" in done.stderr


def test_all_groups_of_identical_images_are_counted(tmp_path, write_images):
    images = write_images(tmp_path / "in", *(f"{own}/{n}.png" for own in "ab" for n in range(120)))
    for number in range(120):
        (images / "b" / f"{number}.png").write_bytes((images / "a" / f"{number}.png").read_bytes())
    dataset = build(folder_source(images), tmp_path / "out", job())
    assert (len(dataset.identical), dataset.num_identical) == (100, 120)


def test_description_says_how_images_are_stored(tmp_path, pets):
    for encoding, words in (
        ("png", "PNG, lossless"),
        ("jpg", "JPEG, quality 95"),
        ("webp", "WebP, lossless"),
    ):
        build(pets, tmp_path / encoding, job(encoding=encoding))
        stored = json.loads((tmp_path / encoding / DATASET_FILE).read_text())["stored_as"]
        assert stored.startswith(words)
    lossless = [ShardImages(tmp_path / name, "train").get(range(10)) for name in ("png", "webp")]
    assert lossless[0].equal(lossless[1])


def test_max_images_are_made_up_for_what_cannot_be_decoded(tmp_path, write_images):
    images = write_images(tmp_path / "in", *(f"a/{n:02d}.png" for n in range(40)))
    for number in range(0, 40, 3):
        (images / "a" / f"{number:02d}.png").write_bytes(b"broken")
    changes = {"max_images": 12, "max_bad_fraction": 1.0}
    assert build(folder_source(images), tmp_path / "out", job(**changes)).counts["train"] == 12
    build(folder_source(images), tmp_path / "again", job(**changes), spread=over_processes(2))
    assert contents(tmp_path / "out") == contents(tmp_path / "again")
