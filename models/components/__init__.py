"""Everything that scores items, one file each: a module here with ``SPECS`` is part of every evaluation."""

import importlib
import pkgutil

from models.fitted import Spec

__all__ = ["specs"]


def specs() -> list[Spec]:
    """Every component, by name."""
    found: list[Spec] = []
    for module in pkgutil.iter_modules(__path__):
        found += importlib.import_module(f"{__name__}.{module.name}").SPECS
    return sorted(found, key=lambda spec: spec.name)
