"""Addresses of workdirs that cannot be opened."""

import pytest

from pipelines.workdir.remote import open_remote


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("ftp://host/runs", "use a folder"),
        ("s3://", "names no bucket"),
        ("s3://me:planted@lab/runs", "credentials come from the environment"),
        ("s3://lab/runs?region=here", "must be BUCKET/PREFIX"),
    ],
)
def test_odd_addresses_are_refused(address, allowed):
    with pytest.raises(ValueError, match=allowed):
        open_remote(address)


def test_odd_stores_are_one_line(at, cli, server, through, tmp_path, monkeypatch):
    store = at("a", through.port)
    plan = ["--pipeline", "digits", "--plan"]
    ok = cli(*plan, "--workdir", store.place)
    assert ok.code == 0, ok.err
    missing = cli(*plan, "--workdir", "s3://no-such-bucket/runs")
    assert missing.error == (
        "error: --workdir: s3://no-such-bucket/runs; there is no bucket 'no-such-bucket'; check the address, "
        "the credentials of the environment and AWS_ENDPOINT_URL"
    )
    untracked = cli("--pipeline", "digits", "--workdir", store.place, "--json")
    assert untracked.error.startswith(f"error: --tracking-uri: not given, with --workdir {store.place}; ")
    through.is_open = False
    away = cli(*plan, "--workdir", store.place)
    assert away.error.startswith(f"error: --workdir: {store.place}; ")
