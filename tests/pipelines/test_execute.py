"""The artifacts that the stages of a real run publish."""

import json

import pyarrow.parquet as pq
import pytest
import torch

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def test_artifacts_hold_shards_and_manifests(demo):
    images, samples = demo.artifact("preprocess") / "images", demo.artifact("sample")
    manifest = pq.read_table(images / "manifest.parquet")
    columns = {"key", "label", "shard", "offset", "sha256", "width", "height", "split"}
    assert columns <= set(manifest.column_names)
    assert manifest.num_rows == 1797
    assert (images / "train-00000.tar").is_file()
    labels = pq.read_table(samples / "manifest.parquet")["label"].to_pylist()
    assert labels == [index % 10 for index in range(60)]
    record = json.loads((samples / "manifest.json").read_text())
    assert record["metrics"]["sample_steps"] in (2, 4)
    assert record["identity"]["libraries"]["torch"] == torch.__version__.split("+")[0]
