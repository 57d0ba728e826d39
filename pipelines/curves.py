"""Which curves belong into one picture: MLflow's and the report's pictures are drawn from this list."""

from collections.abc import Iterator, Mapping, Sequence

Point = Mapping[str, float]
Line = tuple[str, list[tuple[float, float]]]  # name, (step, value) pairs
_PANELS = (
    ("losses", ("loss", "classifier_loss", "energy_loss", "r1")),
    ("accuracy under the training attack", ("adversarial_accuracy",)),
    ("AUROC, real against contrastive", ("auroc",)),
    ("curriculum: contrastive steps T", ("contrastive_steps",)),
    ("energy of real images, contrastive images, seeds", ("energy_real", "energy_contrast", "energy_seed")),
    ("Fréchet distance of selection samples", ("selection_frechet_distance",)),
    ("accuracy under PGD by eps", ("pgd_accuracy_by_eps",)),
    (
        "counterfactuals by eps: confidence, share that flips",
        ("counterfactual_confidence_by_eps", "counterfactual_flip_rate_by_eps"),
    ),
    ("counterfactuals by eps: Fréchet distance in a class", ("counterfactual_frechet_distance_by_eps",)),
)


def steps_are(stage: str) -> str:
    """What the steps of a stage's curves count."""
    return {"sample": "sampling steps", "evaluate_classifier": "eps in thousandths"}.get(
        stage, "optimiser steps"
    )


def panels(points: Sequence[Point]) -> Iterator[tuple[str, list[Line]]]:
    """(title, lines) of each picture that the points have two steps or more for; the same line comes once."""
    for title, names in _PANELS:
        lines: list[Line] = []
        for name in names:
            drawn = [(point["step"], point[name]) for point in points if name in point]
            if len(drawn) > 1 and all(drawn != other for _, other in lines):
                lines.append((name.replace("_", " "), drawn))
        if lines:
            yield title, lines
