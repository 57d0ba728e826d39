"""How close samples are to the reference, in the configured features."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from atjem.fidelity import INCEPTION, NEED_FEATURES, Features, fidelity_metrics, protocol, standard_names
from pipelines.context import StageContext
from pipelines.files import read_json
from pipelines.stages.reference import read_protocol, read_reference
from pipelines.stages.tensors import read_tensors

_NEAR = ("kid_", "prc_", "reference.features_")  # parts of the protocol that need each image's features


def run(context: StageContext) -> dict[str, Any]:
    """Artifact: the metrics, in its manifest. Features were taken while the samples were made."""
    samples, reference = context.inputs["samples"], context.inputs["reference"]
    features = Features.of(read_tensors(sorted(samples.glob("samples-*.safetensors")), "pooled", "logits"))
    measured = fidelity_metrics(features, read_reference(reference))
    depends = _depends(samples, reference)
    protocols = {name: _of_metric(name, depends) for name in measured}
    absent = {
        name: "the reference is imported mu and sigma" for name in NEED_FEATURES if name not in measured
    }
    standard = standard_names(measured)
    if depends["extractor"] == INCEPTION:
        named = dict(zip(standard, measured, strict=True))
        protocols |= {name: protocols[own] for name, own in named.items()}
        absent |= {_standard(name): reason for name, reason in absent.items()}
        return {"metrics": measured | standard, "absent": absent, "protocols": protocols}
    reason = "the features are a classifier's, not the 2015 Inception's"
    return {
        "metrics": measured,
        "absent": absent | dict.fromkeys(standard, reason),
        "protocols": protocols,
    }


def _standard(name: str) -> str:
    return next(iter(standard_names({name: 0.0})))


def _depends(samples: Path, reference: Path) -> dict[str, Any]:
    made = read_json(samples / "manifest.json") or {}
    library = {"torch_fidelity": version("torch-fidelity")}
    return {**read_protocol(reference), **made["sampler"], **protocol(), **library}


def _of_metric(name: str, depends: Mapping[str, Any]) -> dict[str, Any]:
    """What one metric depends on: scores of classes know no reference, distances of moments no neighbours."""
    near = {"kernel_distance": ("kid_",), "feature_precision": ("prc_",), "feature_recall": ("prc_",)}
    own = (*near.get(name, ()), "reference.features_") if name in near else ()
    left_out = [part for part in (*_NEAR, "isc_") if part not in own]
    if name.startswith("class_score"):
        left_out = [*_NEAR, "reference."]
    return {key: value for key, value in depends.items() if not key.startswith(tuple(left_out))}
