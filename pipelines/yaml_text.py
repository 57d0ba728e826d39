"""YAML from elsewhere, read as plain values: no tags that make objects, and nothing that grows when read."""

from typing import Any

import yaml

_LARGEST = 1 << 20  # characters of a file
_MOST_ALIASES = 10  # nine of nine of nine ... would fill any memory
_MOST_VALUES = 10_000
_LARGEST_NUMBER = 1 << 128


def read_yaml(text: str) -> Any:
    """Mappings, lists, texts and numbers. Raises ValueError for anything else, and for too much of it."""
    if len(text) > _LARGEST:
        raise ValueError(f"{len(text):,} characters; {_LARGEST:,} are allowed")
    try:
        value = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error
    _refuse_large(value)
    return value


class _Loader(yaml.SafeLoader):
    """Counts aliases, while it meets them: merging them (`<<`) would already multiply what they stand for."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._aliases = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._aliases += self.check_event(yaml.AliasEvent)
        if self._aliases > _MOST_ALIASES:
            raise ValueError(f"more than {_MOST_ALIASES} aliases (*name); write the values out")
        return super().compose_node(parent, index)


def _refuse_large(value: Any) -> None:
    """Counts what aliases stand for each time, as whoever copies the values does: some never end."""
    pending, seen = [value], 0
    while pending:
        inner = pending.pop()
        seen += 1
        if seen > _MOST_VALUES:
            raise ValueError(f"more than {_MOST_VALUES:,} values")
        if isinstance(inner, dict):
            pending += [*inner.keys(), *inner.values()]
        elif isinstance(inner, list | tuple | set):
            pending += inner
        elif isinstance(inner, int) and abs(inner) > _LARGEST_NUMBER:
            raise ValueError(f"a number of {inner.bit_length()} bits")
