"""What a person should be told about a run's figures before believing them."""

from collections.abc import Iterator, Mapping

_BLIND = 0.55  # AUROC that chance alone may give
_CLOSER = 0.9  # of stage 1's Fréchet distance; the paper's stage 2 has a third or less
_LOST = 0.1  # accuracy that stage 2 may lose; the paper's models lose 0.02 at most


# Of training stages' metrics, what a pipeline's run shows too: how training left its course.
COURSE = ("diverged_at_step", "returned_at_step")


def warnings(metrics: Mapping[str, float]) -> Iterator[str]:
    """One line for each sign that stage 2 did not do what it is for. Names without smoke's prefix."""
    if "diverged_at_step" in metrics:
        step = int(metrics["diverged_at_step"])
        yield f"stage 2 diverged by step {step}; the figures are those of its last sound checkpoint before"
    for stage, prefix in ((1, "stage1_"), (2, "")):
        if f"{prefix}returned_at_step" in metrics:
            step = int(metrics[f"{prefix}returned_at_step"])
            yield (
                f"stage {stage} diverged at step {step}, went back once and on by other batches and half the "
                "learning rate (its artifact's manifest says why)"
            )
    clean, before = metrics.get("clean_accuracy"), metrics.get("stage1_clean_accuracy")
    if clean is not None and before is not None and clean < before - _LOST:
        yield (
            f"stage 2 lost accuracy ({before:.3g} to {clean:.3g}): its training collapsed or was too short; "
            "try a lower stage2.optimizer.lr, for DAT a smaller stage2.contrastive.step_size, or more steps"
        )
    auroc = metrics.get("ood_auroc")
    if auroc is not None and auroc <= _BLIND:
        yield f"the energy does not tell images from seeds (ood_auroc {auroc:.3g}): it has learned nothing"
    distance, first = metrics.get("frechet_distance"), metrics.get("stage1_frechet_distance")
    if distance is not None and first is not None and distance >= _CLOSER * first:
        yield (
            "stage 2's samples are hardly closer to the images than stage 1's: train it longer "
            "(adversarial training alone, stage2.objective=at, does not bring them closer)"
        )
    if metrics.get("repeated_samples"):
        yield (
            f"{int(metrics['repeated_samples'])} samples repeat others exactly, which makes figures worse: "
            "seeds times classes are fewer; lower sample.num_samples, or give more seeds"
        )
    if metrics.get("robust_gate") == 0:
        yield "robust_accuracy is not to be believed: masked gradients (the report shows the signs)"
    if metrics.get("robust_accuracy") == 0:
        yield "no image withstands AutoAttack (robust_accuracy 0): the classifier is not robust at this eps"
