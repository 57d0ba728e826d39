"""Shards against their manifest and description, and what the command says of them."""

import json
import shutil

import pytest
import typer

from data.check import find_damage, main
from data.shards import MANIFEST_FILE


def checked(capsys: pytest.CaptureFixture[str], place: object, **options: bool) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command."""
    with pytest.raises(typer.Exit) as caught:
        main(str(place), **options)
    return caught.value.exit_code, *capsys.readouterr()


def test_sound_shards(known_shards, capsys, tmp_path):
    copy = shutil.copytree(known_shards.folder, tmp_path / "copy")
    assert list(find_damage(copy)) == []
    assert checked(capsys, copy) == (0, f"{copy}: sound\n", "")


def test_whole_frames_are_sound(known_frames):
    assert list(find_damage(known_frames.folder)) == []


def test_command_names_the_damage(own_shards, capsys):
    shutil.move(own_shards.folder / "test-00001.tar", own_shards.folder / "lost.tar")
    line = "test-00000004: test-00001.tar is missing"
    told = f"{own_shards.folder}: 1 damaged samples; prepare them into a new folder"
    assert checked(capsys, own_shards.folder) == (1, f"{line}\n{told}\n", "")
    code, out, _ = checked(capsys, own_shards.folder, as_json=True)
    assert (code, json.loads(out)) == (1, {"folder": str(own_shards.folder), "damaged": [line]})


@pytest.mark.slow
def test_command_exits_2_without_a_manifest(own_shards, tmp_path, run_python):
    done = run_python("-m", "data.check", own_shards.folder.parent)
    hint = f"give {own_shards.folder}"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {own_shards.folder.parent}: no {MANIFEST_FILE} in it; {hint}\n"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda content: b"", "not a readable manifest: "),
        (lambda content: content[:200], "not a readable manifest: "),
        (lambda content: content[:4] + bytes(196) + content[200:], ""),
    ],
    ids=["empty", "cut", "zeros"],
)
def test_command_refuses_what_is_no_manifest(own_shards, capsys, spoil, told):
    path = own_shards.folder / MANIFEST_FILE
    path.write_bytes(spoil(path.read_bytes()))
    code, _, err = checked(capsys, own_shards.folder)
    assert code == 1
    assert err.startswith(f"error: {path}: {told}")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (None, "dataset.json is missing"),
        ({"sha256": "0" * 64}, "manifest.parquet differs from the digest"),
        ({"classes": ["a", "x", "c"]}, "dataset.json calls class 1 'x', the manifest 'b'"),
        ({"classes": ["a"]}, "dataset.json calls class 1 None, the manifest 'b'"),
        ({"image_size": 7}, "dataset.json says 7 pixels a side, the manifest 6"),
    ],
    ids=["missing", "digest", "renamed", "lost", "size"],
)
def test_a_description_that_does_not_fit_is_damage(own_shards, change, told):
    file = own_shards.folder / "dataset.json"
    if change is None:
        file.unlink()
    else:
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert told in next(find_damage(own_shards.folder))
