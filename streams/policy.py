"""What the worker's lists are made by: its settings, and the weights that were chosen for its model."""

from operators.defaults import REPEAT_WEIGHT
from operators.fusion import Fusion
from operators.ranking import Policy
from streams.settings import WorkerSettings

__all__ = ["policy_of"]


def policy_of(worker: WorkerSettings, fusion: Fusion | None) -> Policy:
    """A setting goes before the model's weight, and that before the default."""
    fusion = fusion or Fusion(repeat_weight=REPEAT_WEIGHT)
    return Policy(
        list_items=worker.list_items,
        seen_items=worker.seen_items,
        repeat_weight=fusion.repeat_weight if worker.repeat_weight is None else worker.repeat_weight,
        covisitation=fusion.covisitation if worker.covisitation else None,
        diversity=worker.diversity,
        category_items_max=worker.category_items_max,
        explain=worker.explain,
        variant=worker.variant,
    )
