"""Secrets in URIs, hidden wherever a text may reach a screen, a log, a manifest or MLflow."""

import re

_USER_INFO = re.compile(r"(\b[a-z][a-z0-9+.-]*://)\S*@", re.IGNORECASE)
_NAMES = "key|token|secret|pass|pwd|sig|auth|credential"
_QUERY = re.compile(rf"([?&#][^=&#\s]*(?:{_NAMES})[^=&#\s]*=)[^&#\s]+", re.IGNORECASE)


def redact(text: str) -> str:
    """`user:password@` and secret query values become `***`."""
    return _QUERY.sub(r"\1***", _USER_INFO.sub(r"\1***@", text))


def redact_address(address: str) -> str:
    """As `redact`, of a text that is an address and nothing else: secrets may hold any sign, spaces too."""
    scheme, mark, rest = address.partition("://")
    _, at, place = rest.rpartition("@")
    return redact(f"{scheme}{mark}***@{place}" if at else address)


def has_secrets(address: str) -> bool:
    """Whether an address carries a user, a password or a secret value, whatever signs they are made of."""
    return "@" in address.partition("://")[2] or redact(address) != address
