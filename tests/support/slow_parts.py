"""Parts that take as long as a test wants; nothing heavy is imported where they are made."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


class Slowly:
    """Makes a file for each number; those of `stuck` take until a file is there."""

    def __init__(self, folder: Path, stuck: Sequence[int] = ()) -> None:
        self.folder, self.stuck = folder, stuck

    def __call__(self, context: Any, numbers: Sequence[int]) -> Iterator[int]:
        for number in numbers:
            if number == -1:
                raise ValueError("part -1 cannot be made")
            while number in self.stuck and not (self.folder / "go").exists():
                time.sleep(0.05)
            (self.folder / str(number)).touch()
            yield number


class Touch:
    """A training worker that leaves a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, config: dict[str, Any]) -> None:
        import ray.train

        (self.folder / f"rank-{ray.train.get_context().get_world_rank()}").touch()
