"""One run at a time in a workdir on an object store, however runs end."""

import json
import subprocess
import sys
import time
from threading import Event, Thread

import pytest

from pipelines.workdir import lease as leasing
from pipelines.workdir.lease import FOLDER, Lease, lease, lease_holder
from pipelines.workdir.remote import Remote, RemoteError
from tests.support.running import ROOT
from tests.support.servers import wait_until

_HOLD = """
import sys, time
from pipelines.workdir.lease import lease
from pipelines.workdir.remote import open_remote
with lease(open_remote(sys.argv[1]), print, lambda: False, print):
    print("held", flush=True)
    sys.stdin.read()
"""


def _never(other: str) -> None:
    raise AssertionError(f"{other} was not to be met")


def _hold(remote: Remote) -> "subprocess.Popen[str]":
    """A process that holds the workdir until its stdin is closed."""
    command = [sys.executable, "-c", _HOLD, remote.address]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_second_waits_for_the_first_and_says_for_whom(at):
    remote = at("a").remote
    process, waited = _hold(remote), []
    assert lease_holder(remote) == Lease(remote).claim()
    assert f"{process.pid} on " in str(lease_holder(remote))
    with lease(remote, waited.append, lambda: bool(waited), _never) as held:
        assert not held
    assert waited == [lease_holder(remote)]
    process.communicate("")
    assert lease_holder(remote) is None
    with lease(remote, _never, lambda: False, _never) as held:
        assert held
        assert len(remote.entries(FOLDER)) == 1
    assert remote.entries(FOLDER) == {}


def test_lease_of_a_killed_run_of_this_machine_is_free_at_once(at):
    remote = at("a").remote
    process = _hold(remote)
    process.kill()
    process.communicate()
    assert lease_holder(remote) is None
    with lease(remote, _never, lambda: False, _never) as held:
        assert held


@pytest.fixture
def quick(monkeypatch) -> None:
    """Leases that expire after seconds, not minutes."""
    monkeypatch.setattr(leasing, "EXPIRES", 4.0)
    monkeypatch.setattr(leasing, "_RENEWED", 0.5)


@pytest.mark.slow
def test_lease_of_another_machine_expires(at, quick):
    remote, waited = at("a").remote, []
    said = {"host": "elsewhere", "process": 7, "started": 0.0, "machine": "another"}
    remote.write(f"{FOLDER}/other.json", json.dumps(said).encode())
    with lease(remote, waited.append, lambda: False, _never) as held:
        assert held
        assert "other.json" not in "".join(remote.entries(FOLDER))
    assert waited == ["7 on elsewhere"]


@pytest.mark.slow
def test_lease_that_is_renewed_does_not_expire(at, quick):
    remote = at("a").remote
    with lease(remote, _never, lambda: False, _never) as held:
        assert held
        time.sleep(6)
        assert Lease(remote).claim() is not None


@pytest.mark.slow
@pytest.mark.parametrize("taken", [True, False], ids=["taken", "free"])
def test_run_that_lost_the_store_for_long(at, through, quick, taken):
    """It learns that another has the workdir by then; or takes it anew when nobody has."""
    store, lost = at("a", through.port), []
    near = Remote(store.place, store.remote.endpoint, "us-east-1", (0.1,))
    far = at("b").remote
    with lease(near, _never, lambda: False, lost.append):
        through.is_open = False
        time.sleep(5)
        if taken:
            with lease(far, lambda other: None, lambda: False, _never) as held:
                assert held
                through.is_open = True
                wait_until(lambda: bool(lost), 30)
                assert len(far.entries(FOLDER)) == 1  # it takes nothing from whoever has it
            assert lost == [leasing._named(leasing._process())]
        else:
            through.is_open = True
            wait_until(lambda: lease_holder(far) is not None, 30)
            assert Lease(far).claim() is not None
    assert bool(lost) == taken


@pytest.mark.slow
def test_renewal_that_came_too_late_is_none(at, quick, monkeypatch):
    """It was begun in time, and tried again until another had the workdir."""
    own, other, lost = Lease(at("a").remote), Lease(at("b").remote), []
    assert own.claim() is None
    taken, write = Event(), own._write
    monkeypatch.setattr(own, "_write", lambda: taken.wait(30) and write())
    threads = [Thread(target=lease.keep, args=(lost.append,)) for lease in (own, other)]
    threads[0].start()
    wait_until(lambda: other.claim() is None, 30)
    threads[1].start()
    taken.set()
    threads[0].join(30)
    other.ended.set()
    threads[1].join(30)
    assert lost == [leasing._named(leasing._process())]
    assert list(at("b").remote.entries(FOLDER)) == [other.name]


def test_of_many_that_come_at_once_one_at_a_time_is_let_in(at, monkeypatch):
    monkeypatch.setattr(leasing, "_POLL_SECONDS", 0.05)
    remote, inside, met, done = at("a").remote, [], Event(), []

    def take(number: int) -> None:
        with lease(remote, lambda other: None, lambda: False, _never):
            inside.append(number)
            time.sleep(0.1)
            if len(inside) > 1:
                met.set()
            inside.remove(number)
        done.append(number)

    threads = [Thread(target=take, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(done) == list(range(5))
    assert not met.is_set()


def test_store_out_of_reach_is_an_error(at, through):
    store = at("a", through.port)
    through.is_open = False
    remote = Remote(store.place, store.remote.endpoint, "us-east-1", ())
    with pytest.raises(RemoteError), lease(remote, _never, lambda: False, _never):
        pass
