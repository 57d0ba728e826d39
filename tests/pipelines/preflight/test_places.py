"""A tracking store that is no database."""

import sqlite3

import pytest


@pytest.mark.parametrize("kind", ["garbage", "folder", "truncated"])
def test_tracking_store_that_is_no_database(cli, tmp_path, kind):
    path = tmp_path / "mlflow.db"
    if kind == "folder":
        path.mkdir()
    elif kind == "garbage":
        path.write_bytes(b"no database " * 500)
    else:
        with sqlite3.connect(path) as database:
            database.execute("create table a (b)")
        path.write_bytes(path.read_bytes()[:4000])
    result = cli("--pipeline", "digits", "--workdir", str(tmp_path))
    assert result.code == 2
    assert result.errors[0].startswith("error: --tracking-uri: ")
