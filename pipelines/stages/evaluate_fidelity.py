"""How close samples are to the training images, in the configured features."""

from typing import Any

from atjem.fidelity import INCEPTION, extract, fidelity_metrics, standard_names
from data.images import open_images
from pipelines.context import StageContext
from pipelines.stages.reference_stats import open_extractor, read_reference, uint8_batches


def run(context: StageContext) -> dict[str, Any]:
    """Artifact: the metrics, in its manifest."""
    settings = context.settings.evaluate
    extractor = open_extractor(context.inputs["reference"], settings.inception_weights)
    samples, _ = open_images(context.inputs["samples"], "samples")
    metrics = fidelity_metrics(
        extract(extractor, uint8_batches(samples)), read_reference(context.inputs["reference"])
    )
    if extractor.get_name() == INCEPTION:
        return {"metrics": {**metrics, **standard_names(metrics)}, "absent": {}}
    reason = "the features are a classifier's, not the 2015 Inception's"
    return {"metrics": metrics, "absent": dict.fromkeys(standard_names(metrics), reason)}
