"""Means and covariances of Inception features on disk, in the `.npz` layout of pytorch-fid and of ADM."""

import lzma
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from atjem.fidelity import Statistics

IMPLEMENTATION = "torch-fidelity"  # whose resize and network the features here come from
_FEATURES = 2048
_LARGEST = 128 << 20  # bytes of an array; a covariance of so many features takes a quarter
_READ = ("mu", "sigma", "implementation")
_UNREADABLE = (  # what numpy, zip, its compressions and the text of a header may raise when damaged
    ValueError, OSError, EOFError, TypeError, AttributeError, RuntimeError, SyntaxError, MemoryError,
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, tokenize.TokenError, KeyError, struct.error,
)  # fmt: skip
_ROUNDING = 1e-6  # of the largest variance
_SPATIAL = ("mu_s", "sigma_s")  # only guided-diffusion's evaluator writes them


def write_statistics(statistics: Statistics, path: Path, implementation: str = IMPLEMENTATION) -> None:
    """`mu` (D,) and `sigma` (D, D) float64, and what made them."""
    with path.open("wb") as file:
        np.savez(file, mu=statistics.mu, sigma=statistics.sigma, implementation=np.array(implementation))


def read_statistics(path: Path) -> tuple[Statistics, str | None]:
    """Statistics, and what made them where the file tells: ours say so, guided-diffusion's give it away.

    Raises ValueError for a file that holds no mean (D,) and covariance (D, D) of finite numbers.
    """
    stored = _stored(path)
    names = set(stored)
    if not {"mu", "sigma"} <= names:
        raise ValueError(f"holds {', '.join(sorted(names)) or 'nothing'}, not mu and sigma")
    mu, sigma = stored["mu"], stored["sigma"]
    if mu.dtype.kind not in "fiu" or sigma.dtype.kind not in "fiu":
        raise ValueError(f"mu is {mu.dtype} and sigma {sigma.dtype}; they must be real numbers")
    mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
    told = str(stored["implementation"]) if "implementation" in names else None
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise ValueError(f"mu is {mu.shape} and sigma {sigma.shape}; they must be (D,) and (D, D)")
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise ValueError("mu or sigma hold numbers that are not finite")
    if not np.allclose(sigma, sigma.T):
        raise ValueError("sigma is not symmetric, so it is no covariance")
    if told is None and names & set(_SPATIAL):
        told = "guided-diffusion"
    return Statistics(mu, sigma), told


def _stored(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The file's arrays; a damaged one may make numpy raise what its format, zip or zlib raise."""
    try:
        with zipfile.ZipFile(path) as archive:
            large = [member for member in archive.infolist() if member.file_size > _LARGEST]
        if large:
            raise ValueError(f"{large[0].filename} unpacks to {large[0].file_size:,} bytes")
        with np.load(path, allow_pickle=False) as stored:
            wanted = [name for name in stored.files if name in _READ]
            return dict.fromkeys(stored.files, np.empty(0)) | {name: stored[name] for name in wanted}
    except _UNREADABLE as error:
        raise ValueError(f"is not an .npz file of numbers ({error})") from None


def _is_covariance(sigma: np.ndarray[Any, Any]) -> bool:
    """No variance below zero in any direction, but for rounding."""
    slack = _ROUNDING * max(np.diag(sigma).max(initial=0.0), np.finfo(np.float64).tiny)
    try:
        np.linalg.cholesky(sigma + slack * np.eye(len(sigma)))
    except np.linalg.LinAlgError:
        return False
    return True


def unusable_reference(path: Path, declared: str | None) -> str:
    """Why a file's statistics cannot be compared with Inception features made here; empty when they can.

    pytorch-fid and guided-diffusion resize images otherwise than torch-fidelity does, which moves the
    distance by more than models differ (Parmar et al. 2022).
    """
    if not path.is_file():
        return "no such file"
    try:
        statistics, told = read_statistics(path)
    except ValueError as error:
        return str(error)
    if told and declared and told != declared:
        return f"{told} made it, and evaluate.reference_implementation says {declared}"
    made_by = told or declared
    if made_by is None:
        return "does not say what made it; say so by evaluate.reference_implementation"
    if made_by != IMPLEMENTATION:
        return f"{made_by} made it, whose features are others than {IMPLEMENTATION}'s here"
    if len(statistics.mu) != _FEATURES:
        return f"has {len(statistics.mu)} features; Inception's are {_FEATURES}"
    if not _is_covariance(statistics.sigma):
        return "its sigma has variances below zero, so it is no covariance"
    return ""
