"""Sources to shards: determinism, splits, rejected images, statistics and the command."""

import hashlib
import io
import json
import struct
import sys
import zlib
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from data.build import BadImagesError, build
from data.decode import decode_pixels
from data.part import Job
from data.prepare import main
from data.shards import Dataset, read_manifest
from data.sources.base import Item, Source, folder_source
from data.sources.named import NAMED, digits_source, open_source


def job(**changes: object) -> Job:
    defaults = {"channels": 3, "image_size": 4, "seed": 0, "test_fraction": 0.25, "max_bad_fraction": 0.0}
    return Job(**{**defaults, **changes})


def prepared(source: Source, folder: Path, **changes: object) -> Dataset:
    return build(source, folder, job(**changes))


def plain_source(counts: dict[str | None, int]) -> Source:
    """That many 4x4 pictures of each class without any file; every picture is different."""
    items = []
    for label, num in counts.items():
        for number in range(num):
            image = Image.fromarray(np.random.default_rng(len(items)).integers(0, 256, (4, 4, 3), np.uint8))
            items.append(Item(f"{label}/{number}", label, None, image.copy))
    return Source("plain", "0", lambda: tuple(items))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows(folder: Path, split: str | None = None) -> list[dict[str, object]]:
    return read_manifest(folder, split).to_pylist()


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
def test_same_source_and_job_give_the_same_bytes(tmp_path, write_images, channels):
    images = write_images(tmp_path / "in", *(f"{label}/{n}.png" for label in "abc" for n in range(6)))
    for out in ("first", "second"):
        prepared(folder_source(images), tmp_path / out, channels=channels)
    first = files(tmp_path / "first")
    assert set(first) == {"train-00000.tar", "test-00000.tar", "manifest.parquet", "dataset.json"}
    assert first == files(tmp_path / "second")


def test_seed_changes_split_and_order(tmp_path):
    source = plain_source({"a": 20, "b": 20})
    for seed in (0, 1):
        prepared(source, tmp_path / str(seed), seed=seed)
    first, second = ([row["source"] for row in rows(tmp_path / seed, "test")] for seed in ("0", "1"))
    assert set(first) != set(second)


def test_shards_do_not_go_class_by_class(tmp_path):
    prepared(plain_source({"a": 40, "b": 40}), tmp_path / "out")
    labels = [row["label"] for row in rows(tmp_path / "out", "train")]
    assert sum(one != two for one, two in pairwise(labels)) > 10


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5], ids=str)
def test_split_takes_the_fraction_of_each_class(tmp_path, fraction):
    counts = {"a": 40, "b": 20, "c": 60}
    prepared(plain_source(counts), tmp_path / "out", test_fraction=fraction)
    held_out = Counter(row["class_name"] for row in rows(tmp_path / "out", "test"))
    assert held_out == {label: round(fraction * num) for label, num in counts.items()}


def test_split_takes_at_least_one_of_each_class(tmp_path):
    prepared(plain_source({"a": 2, "b": 3, "c": 30}), tmp_path / "out", test_fraction=0.1)
    held_out = Counter(row["class_name"] for row in rows(tmp_path / "out", "test"))
    assert held_out == {"a": 1, "b": 1, "c": 3}


def test_split_leaves_one_of_each_class_to_train(tmp_path):
    prepared(plain_source({"a": 1, "b": 2, "c": 10}), tmp_path / "out", test_fraction=1.0)
    assert Counter(row["class_name"] for row in rows(tmp_path / "out", "train")) == {"a": 1, "b": 1, "c": 1}


def test_split_of_unlabelled_images_takes_the_fraction_of_all(tmp_path):
    dataset = prepared(plain_source({None: 40}), tmp_path / "out")
    assert dataset.counts == {"train": 30, "test": 10}
    assert dataset.classes == []
    assert {row["label"] for row in rows(tmp_path / "out")} == {-1}


@pytest.mark.parametrize("names", [("train", "test"), ("ood-train", "ood-test")], ids="/".join)
def test_splits_are_disjoint_and_complete(tmp_path, names):
    source = plain_source({"a": 17, "b": 9, None: 5})
    dataset = prepared(source, tmp_path / "out", split_names=names)
    first, second = ({row["source"] for row in rows(tmp_path / "out", name)} for name in names)
    assert not first & second
    assert first | second == {item.name for item in source.items}
    assert dataset.counts == {names[0]: len(first), names[1]: len(second)}
    assert len(rows(tmp_path / "out")) == len({row["key"] for row in rows(tmp_path / "out")}) == 31


def test_folders_own_splits_are_kept(tmp_path, write_images):
    names = ["train/a/1.png", "train/a/2.png", "train/b/1.png", "val/a/3.png", "val/b/2.png"]
    dataset = prepared(folder_source(write_images(tmp_path / "in", *names)), tmp_path / "out")
    for split, folder in (("train", "train"), ("test", "val")):
        sources = {row["source"] for row in rows(tmp_path / "out", split)}
        assert sources == {name for name in names if name.startswith(folder)}
    assert dataset.counts == {"train": 3, "test": 2}


def test_folders_own_splits_go_by_the_jobs_names(tmp_path, write_images):
    source = folder_source(write_images(tmp_path / "in", "train/a/1.png", "train/a/2.png", "test/a/3.png"))
    dataset = prepared(source, tmp_path / "out", split_names=("ood-train", "ood-test"))
    assert dataset.counts == {"ood-train": 2, "ood-test": 1}


def test_labels_are_places_among_the_sorted_classes(tmp_path):
    dataset = prepared(plain_source({"zebra": 4, "ant": 4, "10": 4}), tmp_path / "out")
    assert dataset.classes == ["10", "ant", "zebra"]
    assert dataset.class_counts == {"10": 4, "ant": 4, "zebra": 4}
    assert all(dataset.classes[row["label"]] == row["class_name"] for row in rows(tmp_path / "out"))
    assert all(row["source"].startswith(row["class_name"]) for row in rows(tmp_path / "out"))


def test_manifest_points_at_the_pixels_of_its_source(tmp_path):
    source = plain_source({"a": 6, "b": 6})
    prepared(source, tmp_path / "out")
    pictures = {item.name: np.asarray(item.open()).transpose(2, 0, 1) for item in source.items}
    for row in rows(tmp_path / "out"):
        payload = (tmp_path / "out" / row["shard"]).read_bytes()[row["offset"] :][: row["size"]]
        assert hashlib.sha256(payload).hexdigest() == row["sha256"]
        assert np.array_equal(decode_pixels(payload), pictures[row["source"]])
        assert (row["width"], row["height"]) == (4, 4)


def test_description_is_written_as_returned(tmp_path):
    dataset = prepared(plain_source({"a": 6}), tmp_path / "out")
    assert Dataset.read(tmp_path / "out") == dataset
    assert (dataset.channels, dataset.image_size, len(dataset.sha256)) == (3, 4, 64)


def test_digest_follows_the_contents(tmp_path):
    plain, more = plain_source({"a": 6}), plain_source({"a": 7})
    digests = [prepared(source, tmp_path / str(n)).sha256 for n, source in enumerate((plain, plain, more))]
    assert digests[0] == digests[1] != digests[2]


def test_mean_and_std_are_of_the_training_images_alone(tmp_path):
    colours = {"train/a/1.png": (0, 51, 255), "train/a/2.png": (255, 153, 255), "test/a/1.png": (7, 7, 7)}
    for name, colour in colours.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), colour).save(tmp_path / "in" / name)
    dataset = prepared(folder_source(tmp_path / "in"), tmp_path / "out")
    assert dataset.mean == pytest.approx([0.5, 0.4, 1.0], abs=1e-6)
    assert dataset.std == pytest.approx([0.5, 0.2, 0.0], abs=2e-4)
    assert min(dataset.std) > 0


def test_mean_and_std_of_grey_images(tmp_path):
    dataset = prepared(digits_source(), tmp_path / "out", channels=1, image_size=8)
    kept = {row["source"] for row in rows(tmp_path / "out", "train")}
    pixels = np.stack([np.asarray(item.open()) for item in digits_source().items if item.name in kept]) / 255
    assert sum(dataset.counts.values()) == 1797
    assert dataset.mean == pytest.approx([pixels.mean()], abs=1e-6)
    assert dataset.std == pytest.approx([pixels.std()], abs=1e-6)


def test_progress_counts_every_item_to_the_last(tmp_path):
    seen = []
    build(
        plain_source({"a": 9}),
        tmp_path / "out",
        job(shard_mb=0.004),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert len(seen) > 3
    assert seen == sorted(seen)
    assert seen[-1] == (9, 9)


def held(folder: Path, split: str) -> dict[str, str]:
    """Contents by source."""
    return {row["source"]: row["sha256"] for row in rows(folder, split)}


@pytest.mark.parametrize(
    ("counts", "max_images", "expected"),
    [
        ({"a": 40, "b": 40}, 10, {"a": 5, "b": 5}),
        ({"a": 40, "b": 40, "c": 40}, 9, {"a": 3, "b": 3, "c": 3}),
        ({"a": 4, "b": 40, "c": 40}, 12, {"a": 2, "b": 5, "c": 5}),  # half of a's are for testing
        ({"a": 40, "b": 40}, 1000, {"a": 20, "b": 20}),
        ({None: 40}, 7, {"": 7}),
    ],
    ids=["two", "three", "few of one", "more than there are", "no labels"],
)
def test_max_images_takes_evenly_over_classes(tmp_path, counts, max_images, expected):
    dataset = prepared(plain_source(counts), tmp_path / "out", test_fraction=0.5, max_images=max_images)
    for split in ("train", "test"):
        assert Counter(row["class_name"] for row in rows(tmp_path / "out", split)) == expected
    assert dataset.counts == dict.fromkeys(("train", "test"), sum(expected.values()))


@pytest.mark.parametrize("max_images", [1, 2, 5, 7, 11])
def test_max_images_differ_by_one_between_classes(tmp_path, max_images):
    prepared(plain_source(dict.fromkeys("abc", 9)), tmp_path / "out", max_images=max_images)
    taken = Counter(row["class_name"] for row in rows(tmp_path / "out", "train"))
    per_class = [taken[label] for label in "abc"]
    assert sum(per_class) == max_images
    assert max(per_class) - min(per_class) <= 1


def test_classes_without_images_keep_their_labels(tmp_path):
    source = plain_source(dict.fromkeys("abcdef", 4))
    dataset = prepared(source, tmp_path / "out", max_images=2)
    assert dataset.classes == list("abcdef")
    assert all(row["label"] == "abcdef".index(row["class_name"]) for row in rows(tmp_path / "out"))


def test_photographs_know_their_classes_with_a_handful_of_images(tmp_path):
    source = open_source("photographs-1000", ".")
    dataset = prepared(source, tmp_path / "out", short_side=8, encoding="jpg", max_images=3)
    assert (len(dataset.classes), dataset.counts) == (1000, {"train": 3, "test": 3})
    for row in rows(tmp_path / "out"):
        assert dataset.classes[row["label"]] == row["class_name"] == f"{row['label']:04d}"


def test_max_images_are_some_of_all_with_the_same_contents(tmp_path):
    source = plain_source({"a": 20, "b": 20})
    for name, max_images in (("all", None), ("many", 9), ("few", 4)):
        prepared(source, tmp_path / name, max_images=max_images)
    for split in ("train", "test"):
        few, many, all_ = (held(tmp_path / name, split).items() for name in ("few", "many", "all"))
        assert few < many < all_


def test_seed_chooses_which_images_are_taken(tmp_path):
    source = plain_source({"a": 20, "b": 20})
    for name, seed in (("first", 0), ("second", 0), ("third", 1)):
        prepared(source, tmp_path / name, max_images=4, seed=seed)
    assert files(tmp_path / "first") == files(tmp_path / "second")
    assert held(tmp_path / "first", "train") != held(tmp_path / "third", "train")


@pytest.mark.parametrize(
    "options", [(), ("--short-side", "5"), ("--encoding", "jpg", "--max-images", "4")], ids=str
)
def test_every_process_writes_the_same_bytes(tmp_path, write_images, run_python, options):
    images = write_images(tmp_path / "in", *(f"{label}/{n}.png" for label in "abc" for n in range(5)))
    for out, salt in (("first", "1"), ("second", "2")):
        where = (images, "--out", tmp_path / out, "--image-size", "4")
        done = run_python("-m", "data.prepare", *where, *options, PYTHONHASHSEED=salt)
        assert done.returncode == 0, done.stderr
    assert files(tmp_path / "first") == files(tmp_path / "second")


def test_whole_frames_are_the_pictures_themselves(tmp_path, write_images):
    images = write_images(tmp_path / "in", "a/1.png", "a/2.png", "b/1.png", "b/2.png")
    dataset = prepared(folder_source(images), tmp_path / "out", short_side=5)
    assert dataset.whole
    assert Dataset.read(tmp_path / "out") == dataset
    for row in rows(tmp_path / "out"):
        payload = (tmp_path / "out" / row["shard"]).read_bytes()[row["offset"] :][: row["size"]]
        assert np.array_equal(
            decode_pixels(payload), np.asarray(Image.open(images / row["source"])).transpose(2, 0, 1)
        )
        assert (row["width"], row["height"], row["suffix"]) == (7, 5, "png")


def test_mean_and_std_of_whole_frames_are_over_all_their_pixels(tmp_path, write_images):
    images = write_images(tmp_path / "in", "train/a/1.png", "train/a/2.png", "test/a/1.png")
    dataset = prepared(folder_source(images), tmp_path / "out", short_side=5)
    pixels = np.stack([np.asarray(Image.open(images / f"train/a/{n}.png")) for n in (1, 2)]) / 255
    assert dataset.mean == pytest.approx(pixels.mean(axis=(0, 1, 2)), abs=1e-6)
    assert dataset.std == pytest.approx(pixels.std(axis=(0, 1, 2)), abs=1e-6)


def test_frames_too_long_for_jpeg_are_left_out(tmp_path, write_images):
    images = write_images(tmp_path / "in", *(f"a/{n}.png" for n in range(9)))
    Image.new("RGB", (65_501, 4)).save(images / "a" / "long.png")
    dataset = prepared(
        folder_source(images), tmp_path / "out", short_side=4, encoding="jpg", max_bad_fraction=0.1
    )
    (rejected,) = dataset.rejected
    assert rejected["source"] == "a/long.png"
    assert "65,500" in rejected["reason"]


def noise_file(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def png_with_header(header: bytes) -> bytes:
    """A PNG of one pixel whose IHDR chunk is replaced, with a right checksum."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    chunk = b"IHDR" + header
    checksum = struct.pack(">I", zlib.crc32(chunk))
    return buffer.getvalue()[:8] + struct.pack(">I", len(header)) + chunk + checksum + buffer.getvalue()[33:]


BAD_FILES = {
    "text": b"no image at all",
    "empty": b"",
    "jpeg cut short": noise_file("JPEG")[:2000],
    "png cut short": noise_file("PNG")[:2000],
    "tiff cut short": noise_file("TIFF")[:2000],
    "webp cut short": noise_file("WEBP")[:2000],
    "signature alone": b"\x89PNG\r\n\x1a\n",
    "bomb": png_with_header(struct.pack(">IIBBBBB", 1 << 30, 1 << 30, 8, 0, 0, 0, 0)),
    "header cut short": png_with_header(b"\0\0\0\1"),
}


@pytest.mark.parametrize("payload", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_bad_images_are_counted_and_named(tmp_path, write_images, payload):
    images = write_images(tmp_path / "in", *(f"a/{number}.png" for number in range(9)))
    (images / "a" / "it's bad.png").write_bytes(payload)
    dataset = prepared(folder_source(images), tmp_path / "out", max_bad_fraction=0.1)
    (rejected,) = dataset.rejected
    assert rejected["source"] == "a/it's bad.png"
    assert rejected["reason"]
    assert sum(dataset.counts.values()) == len(rows(tmp_path / "out")) == 9
    assert Dataset.read(tmp_path / "out").rejected == dataset.rejected


def test_image_above_pillows_limit_is_counted_and_named(tmp_path, write_images, monkeypatch):
    images = write_images(tmp_path / "in", *(f"a/{number}.png" for number in range(9)))
    Image.new("RGB", (30, 30)).save(images / "a" / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    dataset = prepared(folder_source(images), tmp_path / "out", max_bad_fraction=0.1)
    assert [bad["source"] for bad in dataset.rejected] == ["a/large.png"]


def test_no_more_than_the_allowed_fraction_may_be_bad(tmp_path, write_images):
    images = write_images(tmp_path / "in", *(f"a/{number}.png" for number in range(8)))
    for name in ("bad one.png", "bad two.png"):
        (images / "a" / name).write_bytes(b"no image")
    assert len(prepared(folder_source(images), tmp_path / "allowed", max_bad_fraction=0.2).rejected) == 2
    with pytest.raises(BadImagesError) as caught:
        prepared(folder_source(images), tmp_path / "refused", max_bad_fraction=0.19)
    for part in ("2 of 10 images", "a/bad one.png", "a/bad two.png", "max_bad_fraction=0.19"):
        assert part in str(caught.value)
    assert not (tmp_path / "refused" / "dataset.json").exists()


def test_long_lists_of_bad_images_are_cut(tmp_path, write_images):
    images = write_images(tmp_path / "in", "a/good.png")
    for number in range(25):
        (images / "a" / f"bad{number:02d}.png").write_bytes(b"")
    with pytest.raises(BadImagesError, match="and 5 more"):
        prepared(folder_source(images), tmp_path / "out")


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names that are no text")
def test_file_names_that_are_no_text(tmp_path, write_images):
    images = write_images(tmp_path / "in", "a/1.png", "a/2.png")
    (images / "a" / "1.png").rename(images / "a" / "caf\udce9.png")
    dataset = prepared(folder_source(images), tmp_path / "out")
    assert sum(dataset.counts.values()) == 2


def test_command_prepares_a_folder(tmp_path, write_images, run_python):
    images = write_images(tmp_path / "two words", *(f"naïve 猫/{number}.png" for number in range(10)))
    out = tmp_path / "new" / "out"
    done = run_python("-m", "data.prepare", images, "--out", out, "--image-size", "4", "--json")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    summary = {"out": str(out), "counts": {"train": 8, "test": 2}, "rejected": 0, "identical": 0}
    assert json.loads(done.stdout.splitlines()[-1]) == summary
    assert Dataset.read(out).classes == ["naïve 猫"]


def test_command_exits_1_on_too_many_bad_images(tmp_path, write_images, run_python):
    images = write_images(tmp_path / "in", "a/1.png")
    (images / "a" / "broken.png").write_bytes(b"no image")
    done = run_python("-m", "data.prepare", images, "--out", tmp_path / "out", "--image-size", "4")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert "a/broken.png" in line


def test_command_exits_2_on_an_unknown_source(tmp_path, run_python):
    done = run_python("-m", "data.prepare", "digit", "--out", tmp_path / "out", "--image-size", "4")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert line.startswith("error: digit: 'digit' is neither a folder in ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 2}, "--channels 2: must be 1 (grey) or 3 (RGB)"),
        ({"image_size": 0}, "--image-size 0: must lie between 1 and 4096"),
        ({"source": "no/such/folder"}, "does not exist"),
        ({"image_size": 8, "short_side": 7}, "--short-side 7: must be at least --image-size 8"),
        ({"short_side": 0}, "--short-side 0: must be at least --image-size 4"),
        ({"encoding": "gif"}, "--encoding gif: use png or jpg or webp"),
        ({"max_images": 0}, "--max-images 0: must be at least 1; leave it out to take all"),
        ({"max_images": -5}, "--max-images -5: must be at least 1"),
        ({"source": "cifar10", "root": "no/such/root"}, "download https://www.cs.toronto.edu/"),
    ],
    ids=[
        "channels",
        "size",
        "folder",
        "short side",
        "no short side",
        "encoding",
        "no images",
        "negative",
        "missing collection",
    ],
)
def test_command_refuses_bad_usage(tmp_path, capsys, options, message):
    with pytest.raises(typer.Exit) as caught:
        main(**{"source": "digits", "out": str(tmp_path / "out"), "image_size": 4, **options})
    assert caught.value.exit_code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["1.png", "2.png"], "note: no image has a class"),
        (["a/1.png", "a/2.png", "b/1.png", "b/2.png", "3.png"], "note: 1 images have no class, others have"),
        (["train/a/1.png", "test/a/1.png", "test/b/1.png"], "note: b only among test images"),
        (["a/1.png", "b/1.png"], "note: there is no test image; a class of one image"),
    ],
)
def test_command_notes_what_is_odd(tmp_path, write_images, capsys, names, told):
    main(source=str(write_images(tmp_path / "in", *names)), out=str(tmp_path / "out"), image_size=4)
    assert told in capsys.readouterr().err
    main(source=str(tmp_path / "in"), out=str(tmp_path / "out"), image_size=4)
    assert "note: it was there already; python -m data.check" in capsys.readouterr().err


def test_command_takes_every_option(tmp_path, write_images, run_python):
    names = [f"{split}/{label}/{n}.png" for split in ("train", "test") for label in "ab" for n in range(6)]
    write_images(tmp_path / "root" / "pets", *names)
    out = tmp_path / "out"
    where = ("pets", "--root", tmp_path / "root", "--out", out, "--image-size", "4", "--json")
    options = ("--short-side", "4", "--encoding", "jpg", "--max-images", "3", "--channels", "1")
    done = run_python("-m", "data.prepare", *where, *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "out": str(out),
        "counts": {"train": 3, "test": 3},
        "rejected": 0,
        "identical": 0,
    }
    dataset = Dataset.read(out)
    assert (dataset.whole, dataset.channels, dataset.image_size) == (True, 1, 4)
    assert {(row["width"], row["height"], row["suffix"]) for row in rows(out)} == {(6, 4, "jpg")}
    checked = run_python("-m", "data.check", out)
    assert (checked.returncode, checked.stdout) == (0, f"{out}: sound\n")


def test_command_accepts_a_short_side_of_the_image_size(tmp_path, capsys):
    main(source="digits", out=str(tmp_path / "out"), image_size=8, short_side=8, max_images=1)
    assert Dataset.read(tmp_path / "out").whole
    assert "1 train, 1 test images" in capsys.readouterr().out


def test_command_refuses_an_altered_collection_in_one_line(tmp_path, capsys):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(typer.Exit) as caught:
        main(source="cifar10", out=str(tmp_path / "out"), image_size=32, root=str(tmp_path))
    assert caught.value.exit_code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: cifar10: cifar10 in {tmp_path} differs from ")
    assert not (tmp_path / "out").exists()


def test_command_names_all_collections_in_its_help(run_python):
    done = run_python("-m", "data.prepare", "--help", COLUMNS="300")
    assert all(name in done.stdout for name in (*NAMED, "photographs-K"))


def test_command_refuses_a_folder_with_something_in_it(tmp_path, capsys):
    (tmp_path / "precious.txt").write_text("keep")
    with pytest.raises(typer.Exit) as caught:
        main(source="digits", out=str(tmp_path), image_size=4)
    assert caught.value.exit_code == 2
    assert "is not empty; give a new folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_command_refuses_a_file_for_its_folder(tmp_path, capsys):
    (tmp_path / "out").write_text("keep")
    with pytest.raises(typer.Exit) as caught:
        main(source="digits", out=str(tmp_path / "out"), image_size=4)
    assert caught.value.exit_code == 2
    assert capsys.readouterr().err.startswith("error: ")
