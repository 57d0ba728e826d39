"""Building shards: by any number of processes, cut short anywhere, onto disks and object stores."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
from PIL import Image

from data.build import BadImagesError, build, over_processes
from data.check import find_damage
from data.folders import PARTS, FolderError
from data.images import ShardImages, open_images
from data.part import Job
from data.shards import DATASET_FILE, Dataset
from data.sources.base import Item, Source, SourceError, folder_source
from data.sources.named import open_source
from data.views import to_image
from tests.support.data_files import contents, plain_source, rows
from tests.support.data_files import job as common_job
from tests.support.pixels import random_images


def job(**changes) -> Job:
    return common_job(**{"shard_mb": 0.007, **changes})  # a few images a shard


@pytest.fixture
def pets(tmp_path, write_images) -> Source:
    return folder_source(
        write_images(tmp_path / "in", *(f"{own}/{n}.png" for own in "ab" for n in range(12)))
    )


def backwards(tasks):
    """Builds the shards in reverse order."""
    return (task.make() for task in reversed(list(tasks)))


def interrupted(tasks):
    """Distributes no shard: it stops before the first one."""
    raise KeyboardInterrupt
    yield


@pytest.mark.slow
def test_any_number_of_processes_in_any_order_writes_the_same_bytes(tmp_path, pets):
    build(pets, tmp_path / "one", job())
    build(pets, tmp_path / "backwards", job(), spread=backwards)
    build(pets, tmp_path / "two", job(), spread=over_processes(2))
    one = contents(tmp_path / "one")
    assert len([name for name in one if name.endswith(".tar")]) > 5
    assert one == contents(tmp_path / "backwards") == contents(tmp_path / "two")


def test_shard_size_is_about_what_was_asked_for(tmp_path):
    images = [to_image(pixels) for pixels in random_images(64, 3, 32, 32)]
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
    with pytest.raises(KeyboardInterrupt):
        build(pets, tmp_path / "out", job(), spread=interrupted)
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
    tolerant = job(max_bad_fraction=0.5)  # is no other job
    assert build(pets, tmp_path / "out", tolerant, spread=None) == first == Dataset.read(tmp_path / "out")


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"image_size": 5}, {"encoding": "webp"}, {"shard_mb": 1.0}], ids=str
)
def test_shards_of_another_job_are_refused(tmp_path, pets, change, finished):
    if finished:
        build(pets, tmp_path / "out", job())
    else:
        with pytest.raises(KeyboardInterrupt):
            build(pets, tmp_path / "out", job(), spread=interrupted)
    before = contents(tmp_path / "out")
    with pytest.raises(SourceError, match=f"holds .*shards of other {next(iter(change))}; give a new folder"):
        build(pets, tmp_path / "out", job(**change))
    assert contents(tmp_path / "out") == before


def test_object_store_holds_the_same_bytes_and_is_checked_and_streamed(tmp_path, pets, bucket):
    build(pets, tmp_path / "local", job())
    build(pets, bucket, job())
    assert contents(bucket) == contents(tmp_path / "local")
    assert list(find_damage(bucket)) == []
    for split in ("train", "test"):
        expected, labels = open_images(tmp_path / "local", split)
        images, remote_labels = open_images(bucket, split)
        assert labels.equal(remote_labels)
        everything = range(len(labels))
        assert images.get(everything).equal(expected.get(everything))
        streamed = ShardImages(bucket, split)
        assert streamed.get([2, 0, 1]).equal(expected.get([2, 0, 1]))
        assert streamed.shards.sum() == len(labels)


@pytest.mark.parametrize(
    ("encoding", "words"), [("png", "PNG, lossless"), ("jpg", "JPEG, quality 95"), ("webp", "WebP, lossless")]
)
def test_description_says_how_images_are_stored(tmp_path, pets, encoding, words):
    build(pets, tmp_path / "out", job(encoding=encoding))
    assert json.loads((tmp_path / "out" / DATASET_FILE).read_text())["stored_as"].startswith(words)
    if encoding == "webp":
        build(pets, tmp_path / "png", job())
        lossless = [ShardImages(tmp_path / name, "train").get(range(10)) for name in ("png", "out")]
        assert lossless[0].equal(lossless[1])


def test_max_images_are_made_up_for_what_cannot_be_decoded(tmp_path, write_images):
    images = write_images(tmp_path / "in", *(f"a/{n:02d}.png" for n in range(40)))
    for number in range(0, 40, 3):
        (images / "a" / f"{number:02d}.png").write_bytes(b"broken")
    changes = {"max_images": 12, "max_bad_fraction": 1.0}
    assert build(folder_source(images), tmp_path / "out", job(**changes)).counts["train"] == 12
    build(folder_source(images), tmp_path / "again", job(**changes), spread=backwards)
    assert contents(tmp_path / "out") == contents(tmp_path / "again")


def test_labels_are_places_among_the_sorted_classes(tmp_path):
    dataset = build(plain_source({"zebra": 4, "ant": 4, "10": 4}), tmp_path, job())
    assert dataset.classes == ["10", "ant", "zebra"]
    assert dataset.class_counts == {"10": 4, "ant": 4, "zebra": 4}
    assert all(dataset.classes[row["label"]] == row["class_name"] for row in rows(tmp_path))
    assert all(row["source"].startswith(row["class_name"]) for row in rows(tmp_path))


def test_std_of_one_colour_is_above_zero(tmp_path):
    items = tuple(Item(str(n), "a", None, partial(Image.new, "RGB", (4, 4))) for n in range(2))
    dataset = build(Source("plain", "0", lambda: items), tmp_path, job())
    assert (dataset.mean, 0 < min(dataset.std) < 1e-3) == ([0, 0, 0], True)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_mean_and_std_are_over_all_pixels_of_the_training_images(tmp_path, write_images, channels, mode):
    images = write_images(tmp_path / "in", "train/a/1.png", "train/a/2.png", "test/a/1.png")
    dataset = build(folder_source(images), tmp_path / "out", job(short_side=5, channels=channels))
    frames = [np.asarray(Image.open(images / f"train/a/{n}.png").convert(mode)) for n in (1, 2)]
    pixels = np.stack(frames).reshape(-1, channels) / 255
    assert dataset.mean == pytest.approx(pixels.mean(axis=0), abs=1e-6)
    assert dataset.std == pytest.approx(pixels.std(axis=0), abs=1e-6)


def test_progress_counts_every_item_to_the_last(tmp_path):
    seen = []
    build(plain_source({"a": 9}), tmp_path, job(shard_mb=0.004), progress=lambda *done: seen.append(done))
    assert len(seen) > 3
    assert seen == sorted(seen)
    assert seen[-1] == (9, 9)


def test_no_more_than_the_allowed_fraction_may_be_bad(tmp_path, write_images):
    """The error names the first bad images and counts the rest."""
    images = write_images(tmp_path / "in", *(f"a/{number}.png" for number in range(75)))
    for number in range(25):
        (images / "a" / f"bad {number:02d}.png").write_bytes(b"no image")
    allowed = build(folder_source(images), tmp_path / "allowed", job(max_bad_fraction=0.25))
    assert len(allowed.rejected) == 25
    with pytest.raises(BadImagesError) as caught:
        build(folder_source(images), tmp_path / "refused", job(max_bad_fraction=0.24))
    for part in ("25 of 100 images", "a/bad 00.png", "a/bad 19.png", "and 5 more", "max_bad_fraction=0.24"):
        assert part in str(caught.value)
    assert not (tmp_path / "refused" / DATASET_FILE).exists()
