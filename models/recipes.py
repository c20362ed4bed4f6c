"""How each data set is trained: the settings of ``headwater train DATASET``."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

from models.dataset import COMPLETE_JOURNEY, PURCHASE_COUNT_MIN, complete_journey
from models.errors import ModelError
from models.leave_one_out import read_histories
from models.next_basket import next_basket_task
from models.next_item import NextItemTask
from models.tasks import Task
from models.train import TrainConfig

__all__ = ["Dataset", "recipe"]

Dataset = Literal["complete-journey", "ml1m", "beauty", "toys"]

_NOWHERE: Final = Path()
_COMPLETE_JOURNEY: Final = TrainConfig(
    _NOWHERE,
    task={
        "count_min": PURCHASE_COUNT_MIN,
        "validation_users_share": 0.1,
        "batch_events": 4_096,
        "retyped_share": 0.1,
    },
)
_ML1M: Final = TrainConfig(
    _NOWHERE,
    epochs=34,
    patience_epochs=8,
    dropout=0.2,
    weight_decay=0.01,
    average_steps=300,
    task={"window_events": 200, "batch_events": 8_192, "positions_share": 1.0},
)
_AMAZON: Final = TrainConfig(
    _NOWHERE,
    epochs=25,
    patience_epochs=6,
    learning_rate=2e-3,
    dropout=0.5,
    weight_decay=0.01,
    average_steps=200,
    start="co-occurrence",
    task={"window_events": 50, "batch_events": 1_024, "positions_share": 1.0},
)
_RECIPES: Final[dict[Dataset, TrainConfig]] = {
    COMPLETE_JOURNEY: _COMPLETE_JOURNEY,
    "ml1m": _ML1M,
    "beauty": _AMAZON,
    "toys": _AMAZON,
}


def recipe(
    dataset: Dataset, data: Path | None, *, refit: bool = False, **settings: Any
) -> tuple[TrainConfig, Callable[[], Task]]:
    """The configuration of a training, with fields of ``TrainConfig`` set otherwise, and what makes its task.

    ``refit`` trains on the validation targets too, and so validates nothing: for a number of epochs known to be good.

    Raises:
        ModelError: a file is needed and not given, or given and not needed, or the data set cannot be refitted.
    """
    config = replace(_RECIPES[dataset], **settings)
    task: dict[str, Any] = {**config.task, "dataset": dataset}
    if refit:
        if dataset == COMPLETE_JOURNEY:
            raise ModelError(f"{dataset} is split by time and cannot be refitted; leave --refit out")
        task["held_out_events"] = 1
        config = replace(config, validate_epochs=0)
    config = replace(config, task=task)
    given: dict[str, Any] = {name: value for name, value in task.items() if name != "dataset"}
    if dataset == COMPLETE_JOURNEY:
        if data is not None:
            raise ModelError(f"{dataset} is read from its package; leave --data out, or name another data set")
        return config, lambda: next_basket_task(complete_journey(), seed=config.seed, **given)
    if data is None:
        raise ModelError(f"{dataset} is read from a file; give it with --data (a line per user: user item item ...)")
    return config, lambda: NextItemTask(read_histories(data), **given)
