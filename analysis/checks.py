"""Range checks shared by the formulas: each error names the quantity and its value."""

import math


def above_zero(**quantities: float) -> None:
    """Raise ValueError for a quantity that is not a finite number above 0."""
    for name, value in quantities.items():
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name}={value} is not a number above 0")


def at_least_zero(**quantities: float) -> None:
    """Raise ValueError for a quantity that is not a finite number of at least 0."""
    for name, value in quantities.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name}={value} is not a number of at least 0")
