"""Progress of downloads where there is no terminal."""

import time

from data.fetching.tally import Tally, Watch


def test_progress_is_a_line_every_few_seconds_without_a_terminal(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    tally = Tally(3000, num_there=1000)
    with Watch(tally) as watch:
        for _ in range(100):
            now[0] += 0.2
            tally.num_fetched += 2
            watch()
        tally.failed["train/x"] = "HTTP 404 Not Found"
        now[0] += 5
    lines = capsys.readouterr().err.splitlines()
    assert 4 <= len(lines) <= 5
    assert lines[0].startswith("1,050 of 3,000 images: 10.")
    assert lines[-1] == "1,201 of 3,000 images: 8.0 images a second, 1 failed"
