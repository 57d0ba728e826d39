"""Reference statistics and the features kept beside them."""

import numpy as np
import pytest
import torch

from data.images import open_images
from pipelines.stages import reference_stats
from pipelines.stages.reference import read_kept, read_protocol, read_reference
from tests.support.stages import make_context


def test_reference_is_made_of_all_training_images(inputs):
    images, labels = open_images(inputs["data"] / "images", "train")
    features, kept_labels = read_kept(inputs["reference"]) or pytest.fail("no features")
    assert torch.equal(kept_labels, labels)
    statistics = read_reference(inputs["reference"]).statistics
    assert statistics.mu == pytest.approx(features.pooled.mean(0).numpy(), abs=1e-6)
    assert statistics.sigma == pytest.approx(np.cov(features.pooled.numpy(), rowvar=False), abs=1e-6)
    protocol = read_protocol(inputs["reference"])
    assert protocol["reference.num_images"] == len(images)
    assert protocol["extractor.resize"] == "none"


def test_kept_features_are_a_seeded_choice(tmp_path, inputs, monkeypatch):
    monkeypatch.setattr(reference_stats, "_KEPT_IMAGES", 100)
    context = make_context(tmp_path, {"data": inputs["data"]}, node="reference_stats")
    reference_stats.run(context)
    whole, all_labels = read_kept(inputs["reference"]) or pytest.fail("no features")
    some, labels = read_kept(context.folder) or pytest.fail("no features")
    assert len(labels) == 100
    places = [int((whole.pooled - row).abs().sum(1).argmin()) for row in some.pooled]
    assert places == sorted(places)
    assert labels.tolist() == all_labels[places].tolist()
    protocols = [read_protocol(folder) for folder in (inputs["reference"], context.folder)]
    keys = ("reference.features_num", "reference.features_sha256")
    assert all(protocols[0][key] != protocols[1][key] for key in keys)
    statistics = read_reference(context.folder).statistics
    assert np.array_equal(statistics.mu, read_reference(inputs["reference"]).statistics.mu)
