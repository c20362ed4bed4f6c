"""How a figure grows with a size: the exponent of a power law, and its name."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

__all__ = ["Slope", "slope_of"]

_CONSTANT: Final = 0.15
_LINEAR: Final = 1.15


class Slope(NamedTuple):
    """``figure ~ size ** exponent``; ``name`` is constant, less than linear, linear, worse than linear, or falling."""

    exponent: float
    name: str


def slope_of(sizes: Sequence[float], figures: Sequence[float]) -> Slope:
    """Least squares on logarithms. Two points or more, all above 0; else the name is "unknown"."""
    if len(sizes) < 2 or len(sizes) != len(figures) or min(*sizes, *figures) <= 0 or len(set(sizes)) < 2:
        return Slope(float("nan"), "unknown")
    exponent = float(np.polyfit(np.log(sizes), np.log(figures), 1)[0])
    return Slope(round(exponent, 3), _name(exponent))


def _name(exponent: float) -> str:
    if exponent < -_CONSTANT:
        return "falling"
    if exponent <= _CONSTANT:
        return "constant"
    if exponent < 2 - _LINEAR:
        return "less than linear"
    return "linear" if exponent <= _LINEAR else "worse than linear"
