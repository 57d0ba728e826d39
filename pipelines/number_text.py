"""Figures as people read them, on the screen and in the report."""


def shown(value: float | None) -> str:
    """Four significant digits, counts in full with thousands apart, nothing for what is absent."""
    if value is None:
        return ""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 2 else f"{value:.4g}"
