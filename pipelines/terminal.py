"""What a person sees: the plan, bars for long steps, the final table. On no terminal, plain lines."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from data.identical import told
from data.redact import redact
from data.visible import visible, visible_lines
from pipelines.number_text import MAIN_METRICS, shown
from pipelines.plan import Plan
from pipelines.settings import Settings
from pipelines.verdict import warnings

_NAMED = 5  # rejected images that are named on the screen
_NAME = 44  # columns, for the longest name of a node
_LAST_COLUMN = 24  # columns that a table's last column, which is folded, needs at least
_LINE_SECONDS = 10  # between plain progress lines of one stage
_SHOWN = ("contrastive_steps", "loss", "auroc", "images_per_second")
_COLOURS = {
    **dict.fromkeys(("run", "resume", "running", "unfinished"), "yellow"),
    **dict.fromkeys(("cached", "ran", "resumed", "finished"), "green"),
    "failed": "red",
}


class Terminal:
    """Writes to stdout, to stderr when stdout belongs to JSON, or to a file. A context: bars end with it."""

    def __init__(self, *, to_stderr: bool = False, file: IO[str] | None = None) -> None:
        # Names and reasons from elsewhere may look like markup, or like codes for a terminal.
        self.console = Console(
            stderr=to_stderr, file=file, highlight=False, soft_wrap=True, markup=False, emoji=False
        )
        self.live = self.console.is_terminal
        self.bars = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=10),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=self.console,
            disable=not self.live,
        )
        self._tasks: dict[str, TaskID] = {}
        self._printed: dict[str, float] = {}
        self._first: dict[str, tuple[float, int]] = {}  # when each stage first reported, and how far it was

    def __enter__(self) -> "Terminal":
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def say(self, text: str, style: str | None = None) -> None:
        """Without secrets, and without anything that would act on the terminal."""
        self.console.print(visible_lines(redact(text)), style=style)

    def waiting(self, stages: Sequence[str], process: str) -> None:
        at_work = f" on {', '.join(stages)}" if stages else ""
        text = f"another run (process {process}) works in this workdir{at_work}; waiting for it to end"
        self.say(text, "yellow")

    def reused(self, before: Plan, now: Plan) -> None:
        """What another run has made since the plan `before`."""
        made = [name for name, step in now.steps.items() if before.steps[name].will_run and not step.will_run]
        if made:
            self.say(f"made by another run meanwhile: {', '.join(made)}")

    def stand_ins(self, configured: Settings, smoke: Settings) -> None:
        """What a smoke run takes in place of what is not there."""
        for name, given, taken in (
            ("data.in", configured.data.in_, smoke.data.in_),
            ("data.ood", configured.data.ood, smoke.data.ood),
            ("model.checkpoint", configured.model.checkpoint, smoke.model.checkpoint),
        ):
            if given != taken:
                self.say(f"smoke: {name}={given} is not there; {taken or 'random weights'} instead", "yellow")

    def plan(self, plan: Plan) -> None:
        """Per stage: what will happen, why, and its fingerprint."""
        rows = [
            (name, step.action, step.fingerprint or "unknown", step.reason)
            for name, step in plan.steps.items()
        ]
        self.rows(("stage", "will", "fingerprint", "why"), rows)

    def stages(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Per stage: how it ended."""
        cells = [
            (r["name"], r["status"], f"{r['seconds']:.0f} s" if r["seconds"] else "", r["reason"])
            for r in rows
        ]
        self.rows(("stage", "status", "time", "why"), cells)

    def metrics(
        self, metrics: Mapping[str, float], published: Mapping[str, float], smoke_prefix: str = ""
    ) -> None:
        """The final figures, one column a model, and the paper's."""
        own = {name.removeprefix(smoke_prefix): value for name, value in metrics.items()}
        columns = [("stage 2", own)]
        for title, prefix in (("stage 1", "stage1_"), ("plain twin", "plain_")):
            part = {name.removeprefix(prefix): v for name, v in own.items() if name.startswith(prefix)}
            columns += [(title, part)] if part else []
        columns += [("paper", dict(published))] if published else []
        rows = [
            (smoke_prefix + name, *(shown(figures.get(name)) for _, figures in columns))
            for name in MAIN_METRICS
            if any(name in figures for _, figures in columns)
        ]
        if "train_test_frechet_distance" in own:
            distance = shown(own["train_test_frechet_distance"])
            rows.append(("frechet_distance of test images", distance, *[""] * (len(columns) - 1)))
        if rows:
            self.rows(("metric", *(title for title, _ in columns)), rows)
        if smoke_prefix:
            self.say("smoke: everything ran; none of these figures is a result", "yellow")
            return
        for warning in warnings(metrics):
            self.say(f"beware: {warning}", "yellow")

    def started(self, name: str, reason: str) -> None:
        self._printed[name] = time.monotonic() - _LINE_SECONDS / 2
        self.say(f"{name:<{_NAME}}starts: {reason}")

    def ended(self, name: str, status: str, seconds: float | None, reason: str) -> None:
        self.gone(name)
        took = f" in {seconds:.1f} s" if seconds is not None else ""
        text = f"{name:<{_NAME}}{status}{took}" + (f": {reason}" if reason else "")
        self.say(text, _COLOURS.get(status))

    def gone(self, name: str) -> None:
        """Takes the bars away of a stage, or of all whose names begin with it."""
        for own in [own for own in self._tasks if own == name or own.startswith(f"{name}:")]:
            self.bars.remove_task(self._tasks.pop(own))

    def rejected(self, images: Sequence[Mapping[str, str]]) -> None:
        """Images that preprocessing left out: they are named, since nobody else will."""
        for image in images[:_NAMED]:
            self.say(f"left out: {image['source']}: {image['reason']}", "yellow")
        if len(images) > _NAMED:
            self.say(
                f"left out: {len(images) - _NAMED} more images; the preprocess manifest names them", "yellow"
            )

    def identical(self, groups: Sequence[Mapping[str, Sequence[str]]], num: int) -> None:
        """Images with the same contents under two labels, or in training and test. num: of all groups."""
        for group in groups[:_NAMED]:
            self.say(told(group), "yellow")
        if num > _NAMED:
            self.say(f"identical images: {num - _NAMED} more groups; see the manifest", "yellow")

    def progress(self, name: str, message: Mapping[str, Any]) -> None:
        """A stage's latest report; shown once it has taken some seconds."""
        text = "  ".join(
            f"{_LABELS.get(k, k)} {message['watched'][k]:.4g}" for k in _SHOWN if k in message["watched"]
        )
        if self.live:
            self._bar(name, message, text)
        elif time.monotonic() - self._printed.get(name, 0.0) >= _LINE_SECONDS:
            self._printed[name] = time.monotonic()
            counted = f"{message['done']:,}/{message['total']:,} {message['unit']}"
            self.say(
                "  ".join(
                    part for part in (f"{name:<{_NAME}}{counted}", text, self._left(name, message)) if part
                )
            )

    def _left(self, name: str, message: Mapping[str, Any]) -> str:
        """How long the stage still takes, at the pace of its first report until now."""
        first = self._first.setdefault(name, (time.monotonic(), message["done"]))
        done, taken = message["done"] - first[1], time.monotonic() - first[0]
        if done <= 0:
            return ""
        return f"about {_duration(taken * (message['total'] - message['done']) / done)} left"

    def _bar(self, name: str, message: Mapping[str, Any], text: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self.bars.add_task(name, total=None, text="")
        shown = text or message["unit"]
        self.bars.update(self._tasks[name], completed=message["done"], total=message["total"], text=shown)

    def rows(self, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
        """A table. Where the screen is too narrow for all but its last column: plain lines, nothing cut."""
        cells = [[visible(redact(cell)) for cell in row] for row in (header, *rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        needed = sum(widths[:-1]) + 2 * len(widths) + min(_LAST_COLUMN, widths[-1])
        if not self.live or needed > self.console.width:
            for row in cells:
                padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
                self.console.print("  ".join(padded).rstrip())
            return
        table = Table(box=None, header_style="bold", pad_edge=False)
        for title in cells[0][:-1]:
            table.add_column(title, no_wrap=True)
        table.add_column(cells[0][-1])
        for first, state, *others in cells[1:]:
            table.add_row(first, Text(state, _COLOURS.get(state, "")), *others)
        self.console.print(table, soft_wrap=False)


_LABELS = {"contrastive_steps": "T", "images_per_second": "img/s"}


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
