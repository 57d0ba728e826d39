"""JSON files that are damaged or of another shape."""

import json

from pipelines.files import read_json, read_json_list, write_json
from pipelines.workdir.store import Store


def test_deep_manifest_is_none(tmp_path):
    folder = tmp_path / "artifacts" / "sample" / "abc"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("[" * 100_000)
    assert read_json(folder / "manifest.json") is None
    assert Store(tmp_path).manifest("sample", "abc") is None


def test_json_files(tmp_path):
    write_json(tmp_path / "a.json", {"é": 1})
    assert read_json(tmp_path / "a.json") == {"é": 1}
    assert read_json_list(tmp_path / "a.json") is None
    (tmp_path / "b.json").write_text(json.dumps([1]))
    assert read_json_list(tmp_path / "b.json") == [1]
    assert read_json(tmp_path / "missing.json") is None
