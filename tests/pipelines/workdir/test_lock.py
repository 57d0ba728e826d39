"""One run at a time in a local workdir."""

import os
import subprocess
import sys

from pipelines.workdir.lock import holder, locked


def test_lock_is_held_by_one_and_freed_at_the_end(tmp_path):
    assert holder(tmp_path) is None
    with locked(tmp_path, print, lambda: True) as first:
        assert first
        assert holder(tmp_path) == str(os.getpid())
        waited: list[str] = []
        with locked(tmp_path, waited.append, lambda: True) as second:
            assert not second
        assert waited == [str(os.getpid())]
    assert holder(tmp_path) is None


def test_lock_of_a_killed_process_is_free(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from pipelines.workdir.lock import locked\n"
        f"with locked(Path({str(tmp_path)!r}), print, lambda: True):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert holder(tmp_path) == str(process.pid)
    process.kill()
    process.wait()
    assert holder(tmp_path) is None
