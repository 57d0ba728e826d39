"""Text from elsewhere on a screen: what would act on a terminal is shown instead."""

import re

# Control characters, line and paragraph separators, and what turns the direction of text.
_ACTING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_BUT_LINES = re.compile(rf"(?![\n\t]){_ACTING.pattern}")


def visible(text: str) -> str:
    """One line: a new line shows as \\n, an escape as \\x1b."""
    return _ACTING.sub(_escaped, text)


def visible_lines(text: str) -> str:
    """As `visible`, but new lines and tabs stay."""
    return _BUT_LINES.sub(_escaped, text)


def _escaped(sign: re.Match[str]) -> str:
    return sign[0].encode("unicode_escape").decode()
