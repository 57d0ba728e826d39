"""Secrets in URIs and in the environment, hidden wherever a text may reach a screen, a file or MLflow."""

import os
import re

_USER_INFO = re.compile(r"(\b[a-z][a-z0-9+.-]*://)\S*@", re.IGNORECASE)
_NAMES = "key|token|secret|pass|pwd|sig|auth|credential"
_QUERY = re.compile(rf"([?&#][^=&#\s]*(?:{_NAMES})[^=&#\s]*=)[^&#\s]+", re.IGNORECASE)


# Variables that hold a secret, as AWS_SECRET_ACCESS_KEY and MLFLOW_TRACKING_TOKEN do, not the place of one.
_VARIABLE = re.compile(r"(?!.*(FILE|PATH|DIR|URI|URL)$).*(SECRET|TOKEN|PASSWORD|ACCESS_KEY|API_KEY)")
_SHORTEST = 8  # characters of a secret that may be looked for in any text


def redact(text: str) -> str:
    """`user:password@`, secret query values and what secret variables of the environment hold: `***`."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and value in text and _VARIABLE.match(name):
            text = text.replace(value, "***")
    return _QUERY.sub(r"\1***", _USER_INFO.sub(r"\1***@", text))


def redact_address(address: str) -> str:
    """As `redact`, of a text that is an address and nothing else: secrets may hold any sign, spaces too."""
    scheme, mark, rest = address.partition("://")
    _, at, place = rest.rpartition("@")
    return redact(f"{scheme}{mark}***@{place}" if at else address)


def has_secrets(address: str) -> bool:
    """Whether an address carries a user, a password or a secret value, whatever signs they are made of."""
    return "@" in address.partition("://")[2] or redact(address) != address
