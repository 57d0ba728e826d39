"""Downloads of listed OOD images by several threads: each image once, and an early end if none can arrive."""

import fcntl
import re

import pytest

import data.fetching.openimages as openimages
from data.fetching.openimages import ListError, TroubleError, plan
from tests.support.origin import fetch, fetched, name_of, present, publish, write_list
from tests.support.servers import free_port


def test_images_come_whole_and_are_asked_for_once(origin, tmp_path):
    names = [name_of(number) for number in range(12)]
    publish(origin, *names)
    tally = fetch(origin, tmp_path, *names, workers=4)
    assert (tally.num_fetched, tally.num_there, tally.failed) == (12, 0, {})
    assert present(tmp_path) == fetched(origin, *names)
    assert set(origin.asked().values()) == {1}
    again = fetch(origin, tmp_path, *names, workers=4)
    assert (again.num_fetched, again.num_there) == (0, 12)
    assert len(origin.log) == 12


def test_empty_file_is_fetched_again(origin, tmp_path):
    publish(origin, name_of(1))
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / f"{1:016x}.jpg").touch()
    assert fetch(origin, tmp_path, name_of(1)).num_fetched == 1
    assert present(tmp_path) == fetched(origin, name_of(1))


def test_no_server_at_all_ends_it_early(origin, tmp_path, monkeypatch):
    monkeypatch.setattr(openimages, "_AWAY_IN_A_ROW", 3)
    away = type("Away", (), {"url": f"http://127.0.0.1:{free_port()}"})
    with pytest.raises(TroubleError, match="3 images in a row got no answer, the last: Connection refused"):
        fetch(away, tmp_path, *(name_of(number) for number in range(50)))
    assert len((tmp_path / "failed.tsv").read_text().splitlines()) == 3


def test_images_that_are_missing_do_not_end_it(origin, tmp_path, monkeypatch):
    monkeypatch.setattr(openimages, "_AWAY_IN_A_ROW", 3)
    publish(origin, name_of(9))
    tally = fetch(origin, tmp_path, *(name_of(number) for number in range(10)))
    assert (tally.num_fetched, len(tally.failed)) == (1, 9)


def test_disk_that_fails_ends_it(origin, tmp_path):
    publish(origin, name_of(1), name_of(2))
    blocked = tmp_path / "train" / f".{1:016x}.jpg.part"
    blocked.mkdir(parents=True)
    with pytest.raises(TroubleError, match=r"\.part: Is a directory"):
        fetch(origin, tmp_path, name_of(1), name_of(2))
    assert not (tmp_path / "failed.tsv").exists()


def test_two_commands_do_not_write_the_same_folder(origin, tmp_path):
    publish(origin, name_of(1))
    with (tmp_path / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TroubleError, match="another command fetches into it"):
            fetch(origin, tmp_path, name_of(1))
    assert origin.log == []
    assert fetch(origin, tmp_path, name_of(1)).num_fetched == 1


def test_lists_become_files(tmp_path):
    first = tmp_path / "first.txt"
    first.write_bytes(b"\xef\xbb\xbftrain/00000000000000aa\r\n\r\n  validation/00000000000000ab \r\n")
    second = write_list(tmp_path / "second", "train/00000000000000aa", "test/00000000000000ac")
    held_out = write_list(tmp_path / "held out", "validation/00000000000000ad", "train/00000000000000ae")
    seeds = plan(tmp_path, [first, second], [held_out], None)
    assert {seed.name: str(seed.file.relative_to(tmp_path)) for seed in seeds} == {
        "train/00000000000000aa": "train/00000000000000aa.jpg",
        "validation/00000000000000ab": "train/00000000000000ab.jpg",
        "test/00000000000000ac": "train/00000000000000ac.jpg",
        "validation/00000000000000ad": "test/00000000000000ad.jpg",
        "train/00000000000000ae": "test/00000000000000ae.jpg",
    }
    shorter = [seed.name[-2:] for seed in plan(tmp_path, [first, second], [held_out], 1)]
    assert shorter == ["aa", "ad"]


@pytest.mark.parametrize(
    "line",
    [
        "00000000000000aa",
        "training/00000000000000aa",
        "train/00000000000000a",
        "train/00000000000000AA",
        "train/00000000000000aa.jpg",
        "train/../../../../etc/pas",
    ],
)
def test_bad_lines_are_named_with_file_and_number(tmp_path, line):
    given = write_list(tmp_path / "list.txt", name_of(1), "", line, name_of(2), *("again bad",) * 1234)
    with pytest.raises(ListError) as caught:
        plan(tmp_path, [given], [], None)
    first, second, *_, last = lines = str(caught.value).splitlines()
    assert first.startswith(f"{given}:3: {line!r}; give train, validation or test")
    assert second.startswith(f"{given}:5: 'again bad'; ")
    assert (len(lines), last) == (21, "and 1,215 more lines")


def test_one_image_in_two_places_is_refused(tmp_path):
    """Held-out images are not trained on, and the files of one split have different names."""
    train = write_list(tmp_path / "train.txt", name_of(1), name_of(2))
    test = write_list(tmp_path / "test.txt", name_of(3), name_of(2), name_of(3, "validation"))
    with pytest.raises(ListError) as caught:
        plan(tmp_path, [train], [test], None)
    assert f"test.txt:2: {name_of(2)}; it goes into train as {name_of(2)}" in str(caught.value)
    assert re.search(f"test.txt:3: validation/.* as {name_of(3)} already", str(caught.value))


@pytest.mark.parametrize("what", ["missing", "empty", "folder"])
def test_unusable_list_files_are_named(tmp_path, what):
    path = tmp_path / "list.txt"
    {"missing": lambda: None, "empty": path.touch, "folder": path.mkdir}[what]()
    reason = {"missing": "No such file", "empty": "no line in it", "folder": "Is a directory"}[what]
    with pytest.raises(ListError, match=f"list.txt: {reason}.*; give train, validation or test"):
        plan(tmp_path, [path], [], None)
