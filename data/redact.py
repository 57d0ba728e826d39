"""Secrets in URIs, hidden wherever a text may reach a screen, a log, a manifest or MLflow."""

import re

_USER_INFO = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s'\"]*@", re.IGNORECASE)
_NAMES = "key|token|secret|pass|pwd|sig|auth|credential"
_QUERY = re.compile(rf"([?&#][^=&#\s]*(?:{_NAMES})[^=&#\s]*=)[^&#\s]+", re.IGNORECASE)


def redact(text: str) -> str:
    """`user:password@` and secret query values become `***`."""
    return _QUERY.sub(r"\1***", _USER_INFO.sub(r"\1***@", text))


def has_secrets(text: str) -> bool:
    return redact(text) != text
