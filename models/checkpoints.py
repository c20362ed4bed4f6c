"""Checkpoints of a training: tensors and plain values only, so that reading one runs no code of its writer."""

from pathlib import Path
from typing import Any

import torch

from models.errors import ModelError

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(path: Path, saved: dict[str, Any]) -> None:
    """Write ``saved``, replacing an older file only when the new one is whole."""
    partial = path.with_name(path.name + ".partial")
    torch.save(saved, partial)
    partial.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The plain dict that a training wrote: config, items, log, model, and in ``last.pt`` what resuming needs.

    Raises:
        ModelError: no such file, or not a checkpoint.
    """
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
        return dict(loaded)
    except FileNotFoundError as error:
        raise ModelError(f"no checkpoint at {path}; run `headwater train` first") from error
    except Exception as error:
        raise ModelError(f"{path} is not a checkpoint of this program; train again") from error
