"""What a list is made with unless a setting says otherwise."""

from typing import Final

__all__ = ["REPEAT_WEIGHT"]

REPEAT_WEIGHT: Final = 2.0
"""Of log(1 + an item's count in the history) on its score; chosen on validation baskets of Complete Journey."""
