"""What a sweep remembers of itself, and what is said when that is damaged."""

from dataclasses import replace

import pytest

from pipelines.problems import BadInput
from pipelines.workdir.store import Store
from sweeps.note import NOTE_FILE, SPACE_FILE, Note, names, read_note, sweep_folder

NOTE = Note(
    "digits", "seed: 0\n", "settings: {}\n", ("ece:min",), ("seed=1",), False, "tpe", 4, 1, identity="a"
)


@pytest.fixture
def folder(tmp_path):
    """A sweep's folder with its note."""
    folder = sweep_folder(Store(tmp_path), "digits-1")
    NOTE.write(folder)
    return folder


def test_what_is_written_is_read(tmp_path, folder):
    assert read_note(Store(tmp_path), "digits-1") == NOTE
    replace(NOTE, storage="mysql://me:secret@host/db").write(folder)
    assert "secret" not in (folder / NOTE_FILE).read_text()


@pytest.mark.parametrize("damage", ["", "{}", '{"trials": -5', "[]"])
def test_damage_is_one_line(tmp_path, folder, damage):
    (folder / NOTE_FILE).write_text(damage)
    with pytest.raises(BadInput, match="damaged: ") as caught:
        read_note(Store(tmp_path), "digits-1")
    assert "\n" not in str(caught.value)


def test_a_space_that_is_gone_is_named(tmp_path, folder):
    (folder / SPACE_FILE).unlink()
    with pytest.raises(BadInput, match=SPACE_FILE):
        read_note(Store(tmp_path), "digits-1")


def test_names_are_free_and_hold_no_odd_signs(tmp_path):
    sweep_folder(Store(tmp_path), "my-recipe-1").mkdir(parents=True)
    assert next(names(Store(tmp_path), "my recipe")) == "my-recipe-2"
