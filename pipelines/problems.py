"""Bad input as the user sees it: one line a problem, every problem at once, exit code 2."""

from collections.abc import Iterable
from dataclasses import dataclass

from data.redact import redact
from data.visible import visible

_LONGEST = 1_000  # characters that are shown of what was given


@dataclass(frozen=True)
class Problem:
    """`where` is the setting, option or file; `given` what it holds; `allowed` what to do about it."""

    where: str
    given: str
    allowed: str

    def __str__(self) -> str:
        where, given, allowed = map(redact, (self.where, self.given, self.allowed))
        if len(given) > _LONGEST:
            given = f"{given[:_LONGEST]}..."
        return visible(" ".join(f"error: {where}: {given}; {allowed}".split()))


class BadInput(Exception):
    """Problems found before any work was done."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def first_line(error: BaseException) -> str:
    """Of what an error says, or its name where it says nothing."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
