"""The command that makes shards: what it takes, refuses and notes."""

import json

import pytest
import typer

from data.check import main as check
from data.folders import as_folder
from data.prepare import main
from data.shards import DATASET_FILE, Dataset
from data.sources.named import NAMED
from tests.support.data_files import contents, rows
from tests.support.planted import SECRET_KEY


def refusal(capsys: pytest.CaptureFixture[str], code: int = 2, **options: object) -> str:
    """The one line on stderr of a command that exits with `code`."""
    with pytest.raises(typer.Exit) as caught:
        main(**options)
    assert caught.value.exit_code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.slow
def test_every_process_writes_the_same_bytes(tmp_path, write_images, run_python):
    images = write_images(tmp_path / "two words", *(f"naïve 猫/{number}.png" for number in range(10)))
    options = {"image_size": 4, "short_side": 5, "encoding": "jpg", "max_images": 4}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    out = tmp_path / "new" / "out"
    done = run_python("-m", "data.prepare", images, "--out", out, *words, "--json", PYTHONHASHSEED="1")
    assert done.returncode == 0, done.stderr
    summary = {"out": str(out), "counts": {"train": 4, "test": 2}, "rejected": 0, "identical": 0}
    assert json.loads(done.stdout.splitlines()[-1]) == summary
    assert Dataset.read(out).classes == ["naïve 猫"]
    main(source=str(images), out=str(tmp_path / "again"), shard_mb=100.0, **options)
    assert contents(out) == contents(tmp_path / "again")


def test_command_exits_1_on_too_many_bad_images(tmp_path, write_images, capsys):
    images = write_images(tmp_path / "in", "a/1.png")
    (images / "a" / "broken.png").write_bytes(b"no image")
    line = refusal(capsys, code=1, source=str(images), out=str(tmp_path / "out"), image_size=4)
    assert "a/broken.png" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 2}, "--channels 2: must be 1 (grey) or 3 (RGB)"),
        ({"image_size": 0}, "--image-size 0: must lie between 1 and 4096"),
        ({"source": "digit"}, "digit: 'digit' is neither a folder in "),
        ({"image_size": 8, "short_side": 7}, "--short-side 7: must be at least --image-size 8"),
        ({"encoding": "gif"}, "--encoding gif: use png or jpg or webp"),
        ({"max_images": 0}, "--max-images 0: must be at least 1; leave it out to take all"),
        ({"source": "cifar10", "root": "no/such/root"}, "download https://www.cs.toronto.edu/"),
    ],
    ids=["channels", "size", "name", "short side", "encoding", "no images", "missing collection"],
)
def test_command_refuses_bad_usage(tmp_path, capsys, options, message):
    given = {"source": "digits", "out": str(tmp_path / "out"), "image_size": 4, **options}
    assert message in refusal(capsys, **given)
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


def test_command_takes_every_option(tmp_path, write_images, capsys):
    names = [f"{split}/{label}/{n}.png" for split in ("train", "test") for label in "ab" for n in range(6)]
    write_images(tmp_path / "root" / "pets", *names)
    out = tmp_path / "out"
    options = {"image_size": 4, "short_side": 4, "encoding": "jpg", "max_images": 3, "channels": 1}
    main(source="pets", root=str(tmp_path / "root"), out=str(out), **options)
    assert capsys.readouterr().out == f"{out}: 3 train, 3 test images, 0 rejected\n"
    dataset = Dataset.read(out)
    assert (dataset.whole, dataset.channels, dataset.image_size) == (True, 1, 4)
    assert {(row["width"], row["height"], row["suffix"]) for row in rows(out)} == {(6, 4, "jpg")}
    with pytest.raises(typer.Exit) as caught:
        check(str(out))
    assert (caught.value.exit_code, capsys.readouterr().out) == (0, f"{out}: sound\n")


@pytest.mark.slow
def test_command_names_all_collections_in_its_help(run_python):
    done = run_python("-m", "data.prepare", "--help", COLUMNS="300")
    assert all(name in done.stdout for name in (*NAMED, "photographs-K"))


def test_command_refuses_a_taken_folder(tmp_path, capsys):
    (tmp_path / "precious.txt").write_text("keep")
    line = refusal(capsys, source="digits", out=str(tmp_path), image_size=4)
    assert "is not empty; give a new folder" in line
    refusal(capsys, source="digits", out=str(tmp_path / "precious.txt"), image_size=4)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_command_takes_object_stores_and_keeps_secrets(tmp_path, write_images, bucket, capsys):
    images = str(write_images(tmp_path / "in", *(f"{own}/{n}.png" for own in "ab" for n in range(4))))
    main(source=images, out=bucket, image_size=4, as_json=True)
    with pytest.raises(typer.Exit) as caught:
        check(bucket)
    assert caught.value.exit_code == 0
    with pytest.raises(typer.Exit) as caught:
        check(bucket.replace("shards", "none"))
    assert caught.value.exit_code == 2
    assert SECRET_KEY not in "".join(capsys.readouterr())
    line = refusal(capsys, source=images, out=bucket, image_size=5)
    assert "; give a new folder" in line
    missing = refusal(capsys, code=1, source=images, out=bucket.replace("bucket", "no-such"), image_size=4)
    assert SECRET_KEY not in line + missing + as_folder(bucket).read(DATASET_FILE).decode()
