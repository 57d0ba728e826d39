"""What a sweep improves: metrics of a pipeline, and which nodes measure them."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from pipelines.problems import Problem
from pipelines.settings import Settings

# By the node that measures them; trials run only what their objectives need.
MEASURED = {
    "evaluate_fidelity": (
        "frechet_distance",
        "kernel_distance",
        "feature_precision",
        "feature_recall",
        "class_score",
        "fid",
        "kid_mean",
        "precision",
        "recall",
        "is_mean",
    ),
    "evaluate_classifier": (
        "clean_accuracy",
        "robust_accuracy",
        "pgd_accuracy",
        "ece",
        "adaptive_ece",
        "tempered_ece",
        "ood_auroc",
        "ood_auroc_adversarial",
        "ood_fpr95",
    ),
    "evaluate_classifier.counterfactuals": (
        "counterfactual_flip_rate",
        "counterfactual_confidence",
        "counterfactual_frechet_distance",
    ),
    "sample": ("samples_per_second", "sample_steps"),
}
_INCEPTION = ("fid", "kid_mean", "precision", "recall", "is_mean")
_FEATURES_OF_EACH = (
    "kernel_distance",
    "feature_precision",
    "feature_recall",
    "kid_mean",
    "precision",
    "recall",
)
_CHEAPER = {"robust_accuracy": "pgd_accuracy"}  # at rungs, where AutoAttack does not run
# Whether more is better, where that is beyond doubt.
_BETTER = {
    **dict.fromkeys(("frechet_distance", "kernel_distance", "fid", "kid_mean", "ece", "adaptive_ece"), False),
    **dict.fromkeys(("clean_accuracy", "robust_accuracy", "pgd_accuracy", "ood_auroc", "is_mean"), True),
}
_NODES = {metric: node for node, metrics in MEASURED.items() for metric in metrics}


@dataclass(frozen=True)
class Objective:
    metric: str
    maximize: bool
    prefix: str = ""  # of its name where people read it: smoke's

    @property
    def label(self) -> str:
        return self.prefix + self.metric

    def __str__(self) -> str:
        return f"{self.metric}:{'max' if self.maximize else 'min'}"

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """As Optuna calls it."""
        return "maximize" if self.maximize else "minimize"

    @property
    def node(self) -> str:
        return _NODES[self.metric]

    def at_rungs(self, attack: str) -> str:
        """The metric that stands for it where `evaluate.robust.attack` is cheaper."""
        return self.metric if attack == "autoattack" else _CHEAPER.get(self.metric, self.metric)

    def no_worse(self, value: float, than: float) -> bool:
        return value >= than if self.maximize else value <= than


def against_the_grain(objectives: Iterable[Objective]) -> list[str]:
    """Objectives that ask for what nobody wants, as far as is known."""
    return [str(own) for own in objectives if own.metric in _BETTER and own.maximize != _BETTER[own.metric]]


def default_objectives(settings: Settings) -> tuple[str, ...]:
    """Good samples and a robust classifier: what the method promises together."""
    robust = "robust_accuracy" if settings.evaluate.robust.attack == "autoattack" else "pgd_accuracy"
    return ("frechet_distance:min", f"{robust}:max")


def parse_objectives(
    texts: Iterable[str], settings: Settings, prefix: str = ""
) -> tuple[tuple[Objective, ...], list[Problem]]:
    """`METRIC:min|max` each, and every problem found, such as a metric that this recipe will not have."""
    objectives: list[Objective] = []
    problems = []
    for text in texts:
        metric, _, direction = text.partition(":")
        if metric not in _NODES:
            near = get_close_matches(metric, _NODES, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            problems.append(
                Problem("--objective", repr(text), f"{hint}metrics are {', '.join(sorted(_NODES))}")
            )
        elif direction not in ("min", "max"):
            problems.append(Problem("--objective", repr(text), f"write {metric}:min or {metric}:max"))
        elif any(metric == objective.metric for objective in objectives):
            problems.append(Problem("--objective", repr(text), f"{metric} is named twice"))
        elif reason := _absent(metric, settings):
            problems.append(Problem("--objective", repr(text), reason))
        else:
            objectives.append(Objective(metric, direction == "max", prefix))
    return tuple(objectives), problems


def _absent(metric: str, settings: Settings) -> str:
    """Why runs of this recipe lack the metric; empty when they have it."""
    evaluate = settings.evaluate
    if metric == "robust_accuracy" and evaluate.robust.attack == "pgd":
        return "evaluate.robust.attack is 'pgd', which leaves it out; use pgd_accuracy"
    if metric in _INCEPTION and evaluate.feature_extractor != "inception":
        return (
            f"evaluate.feature_extractor is {evaluate.feature_extractor!r}; use frechet_distance or its kin"
        )
    if metric in _FEATURES_OF_EACH and evaluate.reference_statistics:
        return "evaluate.reference_statistics holds mu and sigma alone; use frechet_distance"
    return ""
