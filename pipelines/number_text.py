"""Figures as people read them, on the screen and in the report."""

SMOKE_PREFIX = "smoke_"  # of every figure that is no result

# In this order, before any other.
MAIN_METRICS = (
    "clean_accuracy",
    "robust_accuracy",
    "pgd_accuracy",
    "robust_gate",
    "ece",
    "ood_auroc",
    "frechet_distance",
    "kernel_distance",
    "feature_precision",
    "feature_recall",
    "class_score",
    "fid",
    "is_mean",
    "sample_steps",
    "samples_per_second",
)


def shown(value: float | None) -> str:
    """Four significant digits, counts in full with thousands apart, nothing for what is absent."""
    if value is None:
        return ""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 2 else f"{value:.4g}"
