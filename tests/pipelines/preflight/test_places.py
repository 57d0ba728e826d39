"""A tracking store that is no database."""

import pytest

from tests.support.servers import empty_database


@pytest.mark.parametrize("kind", ["garbage", "folder", "truncated"])
def test_tracking_store_that_is_no_database(cli, tmp_path, kind):
    path = tmp_path / "mlflow.db"
    if kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"no database " * 500 if kind == "garbage" else empty_database()[:4000])
    refused = cli("--pipeline", "digits", "--workdir", str(tmp_path))
    assert refused.error.startswith("error: --tracking-uri: ")
