"""How each data set is trained: the settings of ``headwater train DATASET``."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

from models.dataset import COMPLETE_JOURNEY, PURCHASE_COUNT_MIN, complete_journey
from models.errors import ModelError
from models.event_histories import EventHistories
from models.leave_one_out import read_histories
from models.next_basket import next_basket_task
from models.next_event import NextEventTask
from models.next_item import NextItemTask
from models.tasks import Task
from models.train import TrainConfig

__all__ = ["EVENTS_COUNT_MIN", "Dataset", "events_recipe", "recipe"]

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
    epochs=16,
    patience_epochs=8,
    width=128,
    dropout=0.2,
    weight_decay=0.01,
    average_steps=300,
    start="co-occurrence",
    task={"window_events": 200, "batch_events": 8_192, "positions_share": 1.0},
)
_AMAZON: Final = TrainConfig(
    _NOWHERE,
    epochs=25,
    patience_epochs=6,
    width=128,
    learning_rate=2e-3,
    dropout=0.5,
    weight_decay=0.01,
    average_steps=200,
    start="co-occurrence",
    task={"window_events": 50, "batch_events": 1_024, "positions_share": 1.0},
)
_EVENTS: Final = TrainConfig(
    _NOWHERE,
    epochs=30,
    patience_epochs=5,
    dropout=0.2,
    weight_decay=0.01,
    average_steps=100,
    task={"window_events": 200, "batch_events": 4_096, "scored_events": 10_000},
)
EVENTS_COUNT_MIN: Final = 5
"""Events before the validation period that an item of `headwater train events` needs for a row of its own."""
_TOPICS: Final = "topics"
_RIVAL_WIDTH: Final = 64
"""Of SASRec and GRU4Rec where their figures were published."""
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
    config = _RECIPES[dataset]
    if settings.get("model", config.model) != config.model:
        config = replace(config, width=_RIVAL_WIDTH)
    config = replace(config, **settings)
    task: dict[str, Any] = {**config.task, "dataset": dataset}
    if refit:
        if dataset == COMPLETE_JOURNEY:
            raise ModelError(f"{dataset} is split by time and cannot be refitted; leave --refit out")
        task["held_out_events"] = 1
        arguments = f"{dataset} --data FILE --refit --epochs {config.epochs}"
        config = replace(config, validate_epochs=0, arguments=arguments)
    config = replace(config, task=task)
    given: dict[str, Any] = {name: value for name, value in task.items() if name != "dataset"}
    if dataset == COMPLETE_JOURNEY:
        if data is not None:
            raise ModelError(f"{dataset} is read from its package; leave --data out, or name another data set")
        if config.model == "sasrec":
            fix = "leave --model out, or name a data set that is trained on windows"
            raise ModelError(f"sasrec reads windows, and {dataset} is trained on whole histories; {fix}")
        return config, lambda: next_basket_task(complete_journey(), seed=config.seed, **given)
    if data is None:
        raise ModelError(f"{dataset} is read from a file; give it with --data (a line per user: user item item ...)")
    return config, lambda: NextItemTask(read_histories(data), **given)


def events_recipe(
    name: str, data: EventHistories, seen_items: str, **settings: Any
) -> tuple[TrainConfig, Callable[[], Task]]:
    """The configuration of a training on any history of events, with fields of ``TrainConfig`` set otherwise.

    Args:
        name: of the history, ``topics`` where it is what the event topics hold; becomes part of the model's name.
    """
    source = "--from-topic" if name == _TOPICS else "events --data FILE"
    config = replace(_EVENTS, arguments=f"{source} --seen {seen_items}", **settings)
    given: dict[str, Any] = {**config.task, "seen_items": seen_items}
    return replace(config, task={**given, "dataset": name}), lambda: NextEventTask(data, **given)
