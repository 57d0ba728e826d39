"""Secrets in addresses are found and hidden, whatever signs they are made of."""

import pytest

from data.folders import FolderError, as_folder
from data.redact import has_secrets, redact


@pytest.mark.parametrize("sign", ["'", '"', " ", "/", "@", "%27", "\\", ":"])
def test_signs_that_a_secret_may_hold(sign):
    """The address is refused or opened, and the part before its last @ is never shown."""
    address = f"s3://KEY:planted{sign}SECRET@bucket/shards?region=us-east-1"
    assert has_secrets(address)
    try:
        shown = as_folder(address).shown
    except FolderError as error:
        shown = str(error)
    assert "SECRET" not in shown


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


def test_secrets_of_the_environment_are_hidden_and_paths_are_not(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "planted-key")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "planted-token")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token")
    monkeypatch.setenv("SHORT_TOKEN", "true")
    text = "true: planted-key, Bearer planted-token, /var/run/token"
    assert redact(text) == "true: ***, Bearer ***, /var/run/token"
