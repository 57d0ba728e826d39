"""What a person should be told about a run's figures before believing them."""

from collections.abc import Iterator, Mapping

_LOST = 0.1  # accuracy that stage 2 may lose; the paper's models lose 0.02 at most


def warnings(metrics: Mapping[str, float]) -> Iterator[str]:
    """One line for each sign that stage 2 did not do what it is for. Names without smoke's prefix."""
    if "diverged_at_step" in metrics:
        step = int(metrics["diverged_at_step"])
        yield f"stage 2 diverged by step {step}; the figures are those of its last sound checkpoint before"
    clean, before = metrics.get("clean_accuracy"), metrics.get("stage1_clean_accuracy")
    if clean is not None and before is not None and clean < before - _LOST:
        yield (
            f"stage 2 lost accuracy ({before:.3g} to {clean:.3g}): its training collapsed or was too short; "
            "try a lower stage2.optimizer.lr, a smaller stage2.contrastive.step_size or more steps"
        )
    if metrics.get("ood_auroc") == 0.5:
        yield "the energy does not tell images from seeds at all (ood_auroc 0.5): the network is constant"
    distance, first = metrics.get("frechet_distance"), metrics.get("stage1_frechet_distance")
    if distance is not None and first is not None and distance >= first:
        yield "stage 2's samples are no closer to the images than stage 1's: train it longer"
