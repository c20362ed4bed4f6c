"""Co-visitation, as it streams: ``fit`` is a replay of the events through the bounded rows."""

from itertools import product
from typing import Final

from models.fitted import Setting, Spec
from operators.candidates.covisitation import CoVisitation

__all__ = ["SPECS"]


def _build(setting: Setting) -> CoVisitation:
    return CoVisitation(setting.items)


SPECS: Final = (
    Spec(
        "co-visitation",
        _build,
        scoring=[{"from_power": a, "to_power": b} for a, b in product((0.5, 0.75, 1.0), (0.0, 0.1, 0.2, 0.3))],
    ),
)
