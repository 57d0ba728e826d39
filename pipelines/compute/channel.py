"""From stages to the driver and back: progress and curve points one way, the wish to stop the other.

Only the driver writes to the screen and to MLflow; stages on other processes or machines tell it through
one small Ray actor.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_INTERVAL = 0.5  # seconds between a stage's messages


class _Mailbox:
    def __init__(self) -> None:
        self.progress: dict[str, dict[str, Any]] = {}
        self.points: dict[str, list[dict[str, float]]] = {}
        self.notes: list[tuple[str, str]] = []
        self.stopping = False
        self.paused: set[str] = set()

    def put(self, node: str, progress: dict[str, Any] | None, points: list[dict[str, float]]) -> bool:
        if progress is not None:
            self.progress[node] = progress
        self.points.setdefault(node, []).extend(points)
        return self.stopping or node in self.paused

    def say(self, node: str, text: str) -> None:
        self.notes.append((node, text))

    def take(
        self,
    ) -> tuple[dict[str, dict[str, Any]], dict[str, list[dict[str, float]]], list[tuple[str, str]]]:
        """The latest progress of each node; all points and (node, line for the user) since the last call."""
        taken = self.progress, self.points, self.notes
        self.progress, self.points, self.notes = {}, {}, []
        return taken

    def pause(self, node: str, *, on: bool) -> None:
        (self.paused.add if on else self.paused.discard)(node)

    def stop(self) -> None:
        self.stopping = True


def open_mailbox() -> Any:
    """The actor; its lifetime is the driver's, and its node too: others may be preempted.

    For what asks for no resources, Ray passes over an affinity that is soft.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(_Mailbox).remote()


class MailReporter:
    """`pipelines.context.Reporter` for one node. Never waits: a message is sent when the last was taken."""

    def __init__(self, mailbox: Any, node: str) -> None:
        self.mailbox, self.node = mailbox, node
        self._pending: Any = None
        self._points: list[dict[str, float]] = []
        self._next = 0.0
        self._stopping = False

    def progress(self, done: int, total: int, unit: str, **watched: float) -> None:
        message = {"done": done, "total": total, "unit": unit, "watched": watched}
        if done >= total:
            self._flush(message)
        elif time.monotonic() >= self._next:
            self._send(message)

    def points(self, points: Iterable[Mapping[str, float]]) -> None:
        self._points += [dict(point) for point in points]

    def say(self, text: str) -> None:
        ray.get(self.mailbox.say.remote(self.node, text))

    def pause(self, *, on: bool) -> None:
        ray.get(self.mailbox.pause.remote(self.node, on=on))

    def stopping(self, *, ask: bool = False) -> bool:
        """ask: wait for an answer, in place of the one to the last message."""
        if ask:
            self._flush(None)
        elif self._pending is not None and ray.wait([self._pending], timeout=0)[0]:
            self._receive()
        return self._stopping

    def _send(self, message: dict[str, Any]) -> None:
        if self._pending is not None:
            if not ray.wait([self._pending], timeout=0)[0]:
                return
            self._receive()
        self._pending = self.mailbox.put.remote(self.node, message, self._points)
        self._points, self._next = [], time.monotonic() + _INTERVAL

    def _flush(self, message: dict[str, Any] | None) -> None:
        if self._pending is not None:
            self._receive()
        self._pending = self.mailbox.put.remote(self.node, message, self._points)
        self._points = []
        self._receive()

    def _receive(self) -> None:
        self._stopping = bool(ray.get(self._pending))
        self._pending = None
