"""No more requests than allowed, from all threads together."""

import threading
from itertools import pairwise

import pytest

from data.fetching.rate import Stopped, TokenBucket
from tests.support.origin import Clock, fetch, name_of, publish


def test_retry_after_holds_for_every_image(origin, tmp_path):
    names = [name_of(number) for number in range(4)]
    publish(origin, *names)
    origin.faults[f"/{names[0]}.jpg"] = ["404"]
    origin.faults[f"/{names[1]}.jpg"] = ["429 100"] * 1
    clock, times = Clock(), []
    origin.on_request = lambda: times.append(clock.now)
    fetch(origin, tmp_path, *names, clock=clock, num_attempts=1)
    assert [round(later - earlier, 3) for earlier, later in pairwise(times)] == [0.02, 100, 0.02]


@pytest.mark.parametrize("per_second", [50, 3, 0.5])
def test_no_more_requests_than_allowed(origin, tmp_path, per_second):
    """Counted where they arrive: retries and redirections count too."""
    names = [name_of(number) for number in range(8)]
    publish(origin, *names)
    origin.faults[f"/{names[1]}.jpg"] = ["half", "416", "flip"]
    origin.faults[f"/{names[2]}.jpg"] = [f"moved {origin.url}/{names[2]}.jpg"] * 2
    clock, times = Clock(), []
    origin.on_request = lambda: times.append(clock.now)
    assert fetch(origin, tmp_path, *names, clock=clock, per_second=per_second).num_fetched == 8
    assert len(times) == 13
    assert min(later - earlier for earlier, later in pairwise(times)) >= 1 / per_second - 1e-9


def test_token_bucket_over_threads():
    """On a fake clock that several threads wait on: no two tokens closer than allowed."""
    clock, lock, taken = Clock(), threading.Lock(), []

    def wait(seconds: float) -> bool:
        with lock:
            return clock.wait(seconds)

    bucket = TokenBucket(10, wait, lambda: clock.now)
    bucket_try = bucket._try

    def recorded() -> float:
        with lock:
            seconds = bucket_try()
            taken.extend([clock.now] * (seconds == 0))
            return seconds

    bucket._try = recorded
    threads = [threading.Thread(target=lambda: [bucket.take() for _ in range(25)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 100
    assert min(later - earlier for earlier, later in pairwise(taken)) >= 0.1 - 1e-9


def test_token_bucket_stops_those_who_wait():
    bucket = TokenBucket(1, lambda seconds: True, lambda: 0.0)
    bucket.take()
    with pytest.raises(Stopped):
        bucket.take()
