"""Reference statistics in .npz files: read where they fit, refused in words where they do not."""

import numpy as np
import pytest

from atjem.fidelity import Statistics
from atjem.statistics_file import read_statistics, unusable_reference, write_statistics


def test_statistics_file_has_the_published_layout(tmp_path):
    statistics = Statistics(np.arange(3.0), np.diag(np.arange(3.0)))
    write_statistics(statistics, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as stored:
        assert stored["mu"].dtype == stored["sigma"].dtype == np.float64
    again, told = read_statistics(tmp_path / "a.npz")
    assert told == "torch-fidelity"
    assert np.array_equal(again.sigma, statistics.sigma)


def npz(path, num=2048, **arrays):
    np.savez(path, **({"mu": np.zeros(num), "sigma": np.eye(num)} | arrays))
    return path


@pytest.mark.parametrize(
    ("arrays", "declared", "reason"),
    [
        ({}, None, "does not say what made it"),
        ({}, "torch-fidelity", ""),
        ({"implementation": np.array("torch-fidelity")}, None, ""),
        ({"implementation": np.array("torch-fidelity")}, "pytorch-fid", "says pytorch-fid"),
        ({}, "pytorch-fid", "pytorch-fid made it"),
        ({"mu_s": np.zeros(3)}, None, "guided-diffusion made it"),
        ({"mu_s": np.zeros(3)}, "torch-fidelity", "guided-diffusion made it, and"),
        ({"mu": np.zeros(64), "sigma": np.eye(64)}, "torch-fidelity", "has 64 features"),
        ({"sigma": np.eye(7)}, "torch-fidelity", "they must be (D,) and (D, D)"),
        ({"mu": np.full(2048, np.nan)}, "torch-fidelity", "not finite"),
        ({"sigma": np.triu(np.ones((2048, 2048)))}, "torch-fidelity", "not symmetric"),
        ({"sigma": np.diag([-5.0] + [1.0] * 2047)}, "torch-fidelity", "variances below zero"),
        ({"sigma": np.ones((2048, 2048))}, "torch-fidelity", ""),  # of rank one: rounding may go below zero
        ({"mu": np.zeros(2048, complex)}, "torch-fidelity", "they must be real numbers"),
    ],
)
def test_reference_of_another_implementation_is_refused(tmp_path, arrays, declared, reason):
    told = unusable_reference(npz(tmp_path / "a.npz", **arrays), declared)
    assert (reason in told) if reason else told == ""


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "is not an .npz file"), (b"PK\x03\x04 half a zip", "is not an .npz file")]
)
def test_reference_that_is_no_npz(tmp_path, content, reason):
    (tmp_path / "a.npz").write_bytes(content)
    assert reason in unusable_reference(tmp_path / "a.npz", None)
    np.savez(tmp_path / "b.npz", arr_0=np.zeros(3))
    assert "holds arr_0, not mu and sigma" in unusable_reference(tmp_path / "b.npz", None)
    np.savez(tmp_path / "c.npz", mu=np.array([{}]), sigma=np.eye(1))
    assert unusable_reference(tmp_path / "c.npz", None)


def test_damaged_reference_is_told_in_a_line(tmp_path):
    """Wherever a byte is lost or changed, also within what is compressed."""
    np.savez_compressed(tmp_path / "whole.npz", mu=np.arange(64.0), sigma=np.diag(np.arange(64.0)))
    whole = (tmp_path / "whole.npz").read_bytes()
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0x5A
        (tmp_path / "a.npz").write_bytes(damaged if place % 2 else whole[:place])
        assert isinstance(unusable_reference(tmp_path / "a.npz", "torch-fidelity"), str)
