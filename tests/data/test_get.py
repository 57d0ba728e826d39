"""The command that fetches named collections: what cannot be fetched is explained in one line."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import typer
from torchvision.datasets import CIFAR10

from data.fetching.openimages import BUCKET
from data.get import main
from data.sources.base import folder_source
from tests.support.origin import command, name_of, publish, write_list
from tests.support.published_files import publish_cifar, write_cifar
from tests.support.running import ROOT
from tests.support.servers import free_port


def get(name: str, root: Path, **options: object) -> None:
    defaults = {"train_lists": None, "test_lists": None, "workers": 8, "per_second": 50.0}
    main(name, root, **{**defaults, "max_images": None, "base_url": BUCKET, **options})


def refusal(capsys: pytest.CaptureFixture[str], name: str, root: Path, **options: object) -> tuple[int, str]:
    """Exit code and the one line on stderr."""
    with pytest.raises(typer.Exit) as caught:
        get(name, root, **options)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return caught.value.exit_code, err.rstrip("\n")


def test_imagenet_is_explained(tmp_path, capsys):
    code, line = refusal(capsys, "imagenet", tmp_path)
    assert code == 2
    for part in ("https://image-net.org/", "account", "non-commercial", "ILSVRC2012_img_train.tar"):
        assert part in line
    assert line.endswith(f"into {tmp_path / 'imagenet'}")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("cifar-10", {}, "not known; use cifar10, cifar100, .*; did you mean 'cifar10'?"),
        ("digits", {}, "not known; .*come with scikit-learn"),
        ("mnist", {"train_lists": [Path("list")]}, "takes no lists"),
        ("imagenet", {"test_lists": [Path("list")]}, "takes no lists"),
        ("openimages", {}, "--list FILE or --test-list FILE is needed"),
        (
            "openimages",
            {"train_lists": [Path("no/where")]},
            "no/where: No such file or directory; give train",
        ),
        ("openimages", {"workers": 0}, "--workers 0: must lie between 1 and 256"),
        ("openimages", {"per_second": 0.0}, "--per-second 0: must be above 0"),
        ("openimages", {"per_second": float("nan")}, "--per-second nan: must be above 0"),
        ("openimages", {"max_images": 0}, "--max-images 0: must be at least 1"),
        ("openimages", {"base_url": "file:///etc"}, "--base-url file:///etc: must be a plain http"),
        ("openimages", {"base_url": "example.org"}, "--base-url example.org: must be"),
        ("openimages", {"base_url": "http://:80"}, "--base-url http://:80: must be"),
        ("openimages", {"base_url": "http://a:b@c"}, r"--base-url http://\*\*\*@c: must be"),
        ("openimages", {"base_url": "http://h:99999"}, "--base-url http://h:99999: must be"),
        ("openimages", {"base_url": "http://a..b"}, r"--base-url http://a\.\.b: must be"),
    ],
)
def test_bad_usage_is_one_line_and_writes_nothing(tmp_path, capsys, name, options, words):
    code, line = refusal(capsys, name, tmp_path / "root", **options)
    assert code == 2
    assert re.match(f"error: {name}: {words}", line)
    assert not (tmp_path / "root").exists()


def test_published_collections_are_fetched_or_explained(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{free_port()}/{CIFAR10.filename}")
    code, line = refusal(capsys, "cifar10", tmp_path)
    assert code == 1
    assert re.match("error: cifar10: .*Connection refused.*; download http://127", line)
    write_cifar(tmp_path, "cifar10")
    publish_cifar(monkeypatch, tmp_path, "cifar10")
    get("cifar10", tmp_path)
    assert capsys.readouterr().out == f"cifar10: 30 images in {tmp_path / CIFAR10.base_folder}\n"


def test_root_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    code, line = refusal(capsys, "cifar10", tmp_path / "file")
    assert (code, line) == (2, f"error: cifar10: --root {tmp_path / 'file'}: is a file; give a folder")


def test_root_that_cannot_be_made_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    given = tmp_path / "list.txt"
    given.write_text("train/00000000000000aa\n")
    code, line = refusal(capsys, "openimages", tmp_path / "file" / "below", train_lists=[given])
    assert code == 1
    assert line.endswith(f"{tmp_path / 'file' / 'below' / 'openimages'}: Not a directory")


def test_command_explains_itself_and_names_the_licences(run_python):
    done = run_python("-m", "data.get", "--help", COLUMNS="200", TERM="dumb")
    assert done.returncode == 0
    for part in ("cifar10", "fashion-mnist", "--test-list", "--per-second", "CC BY 2.0", "CC BY 4.0"):
        assert part in done.stdout


def test_command_fails_when_images_fail(origin, tmp_path):
    publish(origin, name_of(1), name_of(3))
    given = write_list(tmp_path / "list.txt", name_of(1), name_of(2))
    held_out = write_list(tmp_path / "held-out.txt", name_of(3))
    arguments = command(origin, tmp_path / "root", "--list", given, "--test-list", held_out)
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    folder = tmp_path / "root" / "openimages"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: openimages: 1 of 3 images could not be fetched ({name_of(2)}: HTTP 404 Not Found); "
        f"{folder / 'failed.tsv'} lists them all, the same command tries them again\n"
    )
    assert sorted(os.listdir(folder / "train")) == [f"{1:016x}.jpg"]
    assert sorted(os.listdir(folder / "test")) == [f"{3:016x}.jpg"]
    assert {item.split for item in folder_source(folder).items} == {"train", "test"}
