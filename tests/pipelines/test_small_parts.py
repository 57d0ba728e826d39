"""Redaction, the workdir's lock, stop requests, plain progress lines."""

import pytest

from data.redact import redact


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://user:planted@host/db",
        "postgresql://user:p@planted/w0rd@localhost/db",
        "http://u:a/planted@h",
        "https://host/?token=planted&x=1",
        "https://host/x?sig=planted",
        "https://host/x?X-Amz-Credential=planted",
        "https://host/#access_token=planted",
        "s3://key:planted@bucket/a b",
    ],
)
def test_secrets_are_hidden(text):
    assert "planted" not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text", ["stage1.optimizer.lr=0.1", "mail me@host", "http://host/path?page=2", "a: b@c"]
)
def test_ordinary_text_stays(text):
    assert redact(text) == text
