"""Fidelity metrics against closed forms, and their independence of the batch size."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch_fidelity.utils import create_feature_extractor

from atjem.checkpoint import save_model
from atjem.fidelity import (
    CLASSIFIER,
    INCEPTION,
    FeatureMoments,
    Features,
    Reference,
    Statistics,
    class_frechet_distance,
    extract,
    fidelity_metrics,
    frechet_distance,
    make_extractor,
    standard_names,
)
from tests.support.hostile import ask_each

STANDARD = {
    "frechet_distance": "fid",
    "kernel_distance": "kid_mean",
    "feature_precision": "precision",
    "feature_recall": "recall",
    "class_score": "is_mean",
    "class_score_std": "is_std",
}


def statistics(mu, sigma):
    return Statistics(np.array(mu, dtype=np.float64), np.array(sigma, dtype=np.float64))


def gaussian_features(num, seed, shift=0.0, dim=3, num_classes=4):
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(num, dim, generator=generator, dtype=torch.float64) + shift
    return Features(pooled, torch.randn(num, num_classes, generator=generator, dtype=torch.float64))


@pytest.fixture
def extractor(tmp_path, make_model):
    save_model(make_model(seed=2), tmp_path)
    return make_extractor(CLASSIFIER, str(tmp_path), torch.device("cpu"))


@pytest.fixture
def make_bytes():
    """Seeded images as a sampler writes them: (num, 1, 8, 8) uint8."""

    def make(num, seed):
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(0, 256, (num, 1, 8, 8), generator=generator, dtype=torch.uint8)

    return make


def test_imported_statistics_give_what_needs_no_features():
    samples, reference = gaussian_features(50, seed=0), gaussian_features(60, seed=1)
    whole = fidelity_metrics(samples, Reference.of(reference))
    alone = fidelity_metrics(samples, Reference(Statistics.of(reference), None))
    assert alone == {name: whole[name] for name in ("frechet_distance", "class_score", "class_score_std")}
    assert standard_names(alone).keys() == {"fid", "is_mean", "is_std"}


def test_class_frechet_distance_is_the_mean_over_classes_with_enough_images():
    features, reference = gaussian_features(60, seed=0), gaussian_features(90, seed=1, shift=0.5)
    labels, reference_labels = torch.arange(60) % 3, torch.arange(90) % 3
    labels[labels == 2] = torch.tensor([2] * 5 + [0] * 15)  # too few of class 2
    expected = [
        frechet_distance(
            Statistics.of(Features(features.pooled[labels == label], features.logits)),
            Statistics.of(Features(reference.pooled[reference_labels == label], reference.logits)),
        )
        for label in (0, 1)
    ]
    measure = partial(class_frechet_distance, features, labels, reference, reference_labels)
    assert measure(fewest=10) == pytest.approx(sum(expected) / 2)
    assert measure(fewest=50) is None


@pytest.mark.parametrize(
    ("sigma_a", "sigma_b"),
    [
        ([[4.0, 0.0], [0.0, 9.0]], [[1.0, 0.0], [0.0, 25.0]]),
        ([[2.0, 0.5], [0.5, 1.0]], [[1.0, -0.3], [-0.3, 3.0]]),
    ],
    ids=["independent", "correlated"],
)
def test_frechet_distance_of_gaussians(sigma_a, sigma_b):
    # For 2x2 matrices M = A B: trace sqrt(M) = sqrt(trace M + 2 sqrt(det M)).
    a, b = statistics([0, 0], sigma_a), statistics([1, -2], sigma_b)
    product = a.sigma @ b.sigma
    trace_sqrt = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = 5.0 + np.trace(a.sigma) + np.trace(b.sigma) - 2 * trace_sqrt
    assert frechet_distance(a, b) == pytest.approx(expected)
    assert frechet_distance(b, a) == pytest.approx(expected)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_statistics_are_the_mean_and_the_unbiased_covariance():
    pooled = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]], dtype=torch.float64)
    found = Statistics.of(Features(pooled, torch.zeros(3, 2)))
    np.testing.assert_allclose(found.mu, [1, 1])
    np.testing.assert_allclose(found.sigma, [[1, 0], [0, 3]], atol=1e-12)


def test_kernel_distance_is_the_unbiased_mmd_of_the_cubic_kernel():
    # Of twenty images each, a subset of twenty is all of them, in whatever order.
    samples, reference = gaussian_features(20, seed=0, shift=0.5), gaussian_features(20, seed=1)
    x, y = samples.pooled, reference.pooled
    within = [((z @ z.T / 3 + 1) ** 3).fill_diagonal_(0).sum() / (20 * 19) for z in (x, y)]
    expected = (sum(within) - 2 * ((x @ y.T / 3 + 1) ** 3).mean()).item()
    assert fidelity_metrics(samples, Reference.of(reference))["kernel_distance"] == pytest.approx(expected)


def test_precision_is_of_the_samples_and_recall_of_the_reference():
    # The samples show one of the reference's two far-apart modes.
    near, far = gaussian_features(40, seed=1), gaussian_features(40, seed=2, shift=100.0)
    reference = Features.cat([near, far])
    metrics = fidelity_metrics(Features(near.pooled + 1e-3, near.logits), Reference.of(reference))
    assert metrics["feature_precision"] == 1.0
    assert metrics["feature_recall"] == 0.5


@pytest.mark.parametrize(
    ("logits", "expected", "slack"),
    [(torch.zeros(40, 4), 1, 1e-6), (1e3 * torch.eye(4).repeat(500, 1), 4, 0.1)],
    ids=["undecided", "certain-and-diverse"],
)
def test_class_score_goes_from_one_to_the_number_of_classes(logits, expected, slack):
    samples = Features(gaussian_features(len(logits), seed=0).pooled, logits.double())
    metrics = fidelity_metrics(samples, Reference.of(gaussian_features(20, seed=1)))
    assert metrics["class_score"] == pytest.approx(expected, abs=slack)


def test_metrics_and_their_standard_names():
    samples, reference = gaussian_features(10, seed=0, shift=1.0), gaussian_features(12, seed=1)
    metrics = fidelity_metrics(samples, Reference.of(reference))
    expected = frechet_distance(Statistics.of(samples), Statistics.of(reference))
    assert metrics["frechet_distance"] == expected
    assert all(np.isfinite(value) for value in metrics.values())
    assert standard_names(metrics) == {STANDARD[name]: value for name, value in metrics.items()}
    assert metrics.keys() == STANDARD.keys()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_square_of_the_reference():
    measure = """
import torch
from atjem.fidelity import Features, Reference, fidelity_metrics

def ask(num):
    features = Features(torch.randn(int(num), 4).double(), torch.randn(int(num), 2).double())
    samples = Features(features.pooled[:100] + 0.1, features.logits[:100])
    return fidelity_metrics(samples, Reference.of(features))
"""
    found = ask_each(measure, {"small": "1000", "large": "8000"})
    assert found["large"].said.startswith("{"), found
    assert found["large"].megabytes < 400, found  # all distances at once would be 512 MB, and their copies


@pytest.mark.parametrize(("num_samples", "num_reference"), [(9, 20), (20, 9)], ids=["samples", "reference"])
def test_too_few_images_are_refused(num_samples, num_reference):
    samples, reference = gaussian_features(num_samples, seed=0), gaussian_features(num_reference, seed=1)
    with pytest.raises(ValueError, match="at least 10 images on each side, not 9"):
        fidelity_metrics(samples, Reference.of(reference))


def test_extractor_gives_the_classifiers_features_and_logits(tmp_path, extractor, make_model, make_bytes):
    images = make_bytes(12, seed=0)
    features = extract(extractor, images.split(5))
    model, x = make_model(seed=2), images.float() / 255
    with torch.no_grad():
        torch.testing.assert_close(features.pooled, model.features(x).double(), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(features.logits, model(x).double(), atol=1e-6, rtol=1e-5)
    assert not extractor.training
    assert features.pooled.dtype == torch.float64
    (tmp_path / "other").mkdir()
    save_model(make_model(seed=3), tmp_path / "other")
    other = make_extractor(CLASSIFIER, str(tmp_path / "other"), torch.device("cpu"))
    assert not torch.equal(features.pooled, extract(other, [images]).pooled)


@pytest.mark.parametrize("batch_size", [1, 7, 24])
def test_metrics_do_not_depend_on_the_batch_size(batch_size, extractor, make_bytes):
    samples, reference = make_bytes(48, seed=0), make_bytes(48, seed=1) // 2
    whole = fidelity_metrics(extract(extractor, [samples]), Reference.of(extract(extractor, [reference])))
    parts = fidelity_metrics(
        extract(extractor, samples.split(batch_size)),
        Reference.of(extract(extractor, reference.split(batch_size))),
    )
    assert whole["frechet_distance"] > 0
    assert parts == pytest.approx(whole, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64], ids=["float", "int64"])
def test_images_are_8_bit(dtype, extractor, make_bytes):
    with pytest.raises(AssertionError, match="8-bit"):
        extract(extractor, [make_bytes(4, seed=0).to(dtype)])


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    """A file with exactly the layout of torch-fidelity's 2015 Inception weights, with random values."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *_, **__: None)
        blank = create_feature_extractor(
            INCEPTION, ["2048"], cuda=False, verbose=False, feature_extractor_weights_path=str(path)
        )
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in blank.state_dict().items():
        noise = torch.randn(value.shape, generator=generator) if value.is_floating_point() else value
        if value.ndim > 1:  # as large as the next layer needs it (He et al. 2015)
            noise *= (2 / value[0].numel()) ** 0.5
        elif value.is_floating_point():
            noise = 0.1 * noise + (1 if name.endswith(("weight", "running_var")) else 0)
        state[name] = noise
    torch.save(state, path)
    return path


@pytest.mark.slow
def test_metrics_equal_torch_fidelitys_own_command(inception_weights, tmp_path):
    """On the same PNGs; precision and recall by the same extractor, which the command is told of for all."""
    generator = torch.Generator().manual_seed(0)
    sets = {
        name: torch.randint(0, 256, (num, 3, 32, 32), dtype=torch.uint8, generator=generator) // divisor
        for name, num, divisor in (("samples", 12, 2), ("reference", 14, 1))
    }
    for name, images in sets.items():
        (tmp_path / name).mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / name / f"{number:03d}.png")
    options = (
        "--cpu --json --silent --no-cache --isc --fid --kid --prc --kid-subset-size 12 --batch-size 8"
        f" --feature-extractor {INCEPTION} --feature-extractor-weights-path {inception_weights}"
    )
    command = [str(Path(sys.executable).with_name("fidelity")), *options.split()]
    command += ["--input1", str(tmp_path / "samples"), "--input2", str(tmp_path / "reference")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)
    extractor = make_extractor(INCEPTION, str(inception_weights), torch.device("cpu"))
    features = {name: extract(extractor, images.split(5)) for name, images in sets.items()}
    ours = fidelity_metrics(features["samples"], Reference.of(features["reference"]))
    names = {
        "frechet_distance": "frechet_inception_distance",
        "kernel_distance": "kernel_inception_distance_mean",
        "feature_precision": "precision",
        "feature_recall": "recall",
        "class_score": "inception_score_mean",
        "class_score_std": "inception_score_std",
    }
    assert {name: ours[name] for name in names} == pytest.approx(
        {name: theirs[their] for name, their in names.items()}, rel=1e-4, abs=1e-9
    )
    assert ours["frechet_distance"] > 0


@pytest.mark.slow
def test_inception_weights_are_loaded_from_a_file(inception_weights):
    extractor = make_extractor(INCEPTION, str(inception_weights), torch.device("cpu"))
    images = torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8)
    features = extract(extractor, images.split(2))
    assert (features.pooled.shape, features.logits.shape) == ((3, 2048), (3, 1008))
    assert features.pooled.std() > 0
    colour = extract(extractor, [images.expand(-1, 3, -1, -1)])
    assert torch.allclose(features.pooled, colour.pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["other-layout", "malicious"])
def test_other_files_are_not_inceptions_and_never_executed(tmp_path, kind):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    content = {"other-layout": {"conv.weight": torch.zeros(1)}, "malicious": {"Conv2d_1a_3x3.w": Payload()}}
    torch.save(content[kind], tmp_path / "file.pth")
    with pytest.raises(ValueError, match="does not hold torch-fidelity's Inception weights"):
        make_extractor(INCEPTION, str(tmp_path / "file.pth"), torch.device("cpu"))
    assert not (tmp_path / "executed").exists()


def test_inception_without_weights_and_network_fails_instead_of_substituting(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    with pytest.raises(OSError, match=r"refused|unreachable|resolution|not known|urlopen"):
        make_extractor(INCEPTION, None, torch.device("cpu"))


@pytest.mark.parametrize("sizes", [(30,), (7, 1, 22)], ids=str)
def test_moments_add_up_to_mean_and_unbiased_covariance(sizes):
    pooled = torch.randn(30, 5, generator=torch.Generator().manual_seed(0)).double()
    batches, parts = FeatureMoments(), FeatureMoments()
    for part in pooled.split(list(sizes)):
        batches.add(part)
        own = FeatureMoments()
        own.add(part)
        parts.merge(FeatureMoments.of(own.tensors()))
    for moments in (batches, parts):
        found = moments.statistics()
        assert found.mu == pytest.approx(pooled.mean(0).numpy())
        assert found.sigma == pytest.approx(np.cov(pooled.numpy(), rowvar=False))
