"""How often threads may ask a server: a token bucket that all requests of an opener pass."""

import threading
import time
import urllib.request
from collections.abc import Callable


class Stopped(Exception):
    """The work was told to end."""


class TokenBucket:
    """At most `per_second` requests from all threads, evenly spaced: the bucket holds one token.

    wait(seconds) sleeps and returns whether to stop instead; then `take` raises Stopped.
    """

    def __init__(
        self, per_second: float, wait: Callable[[float], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval, self._wait, self._clock = 1 / per_second, wait, clock
        self._lock, self._free_at = threading.Lock(), clock()

    def take(self) -> None:
        """Returns when the next request may be made."""
        while seconds := self._try():
            self.sleep(seconds)

    def sleep(self, seconds: float) -> None:
        if self._wait(seconds):
            raise Stopped

    def pause(self, seconds: float) -> None:
        """No token for anyone in that time."""
        with self._lock:
            self._free_at = max(self._free_at, self._clock() + seconds)

    def _try(self) -> float:
        """Seconds to the next token; 0 takes it."""
        with self._lock:
            now = self._clock()
            if now < self._free_at:
                return self._free_at - now
            self._free_at = now + self._interval
            return 0.0


class Meter(urllib.request.BaseHandler):
    """Takes a token before every request, those after a redirect too."""

    def __init__(self, bucket: TokenBucket) -> None:
        self._bucket = bucket

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        self._bucket.take()
        return request

    https_request = http_request
