"""``headwater plan``: the measured slopes that ship with the package, and a plan in words."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

import infra
from operators import limits
from operators.plan import Costs, Need, Plan, PlanError, plan
from operators.wire import UNDECODABLE
from streams.clients.errors import ClientError, InputError

__all__ = ["COSTS_FILE", "costs_of", "plan_for", "read_costs"]

COSTS_FILE: Final = Path(infra.__file__).parent / "docs" / "performance" / "costs.json"


def plan_for(need: Need, path: Path = COSTS_FILE) -> tuple[Plan, Costs]:
    """The plan and what it was made from.

    Raises:
        InputError: a need that cannot be planned for.
        ClientError: the measured costs are missing or damaged.
    """
    costs = read_costs(path)
    try:
        return plan(need, costs), costs
    except PlanError as error:
        raise InputError(str(error)) from error


def read_costs(path: Path = COSTS_FILE) -> Costs:
    """The slopes of the package.

    Raises:
        ClientError: the file is missing or damaged.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Costs)
    except (OSError, *UNDECODABLE) as error:
        raise ClientError(
            f"{path} cannot be read ({error}); measure with `headwater bench report --measure`"
        ) from error


def costs_of(results: Mapping[str, Mapping[str, Any]], day: str) -> Costs:
    """Slopes from the benches' results.

    The worker's time an event comes from ``pipeline``, where many events share a list, and from ``scale-users``, where
    few do: two equations for the cost of an event and of a list, each times the cores that a worker keeps busy.
    Scoring is the slope of ``ranking`` up to 100,000 items, and is taken out of the list. Memory, disk and restore are
    slopes of ``scale-users``.

    Raises:
        ClientError: a result that is needed is missing.
    """
    missing = [name for name in ("pipeline", "ranking", "scale-users") if name not in results]
    if missing:
        raise ClientError(f"no result of bench {missing[0]}: measure with `headwater bench report --measure`")
    pipeline, users = results["pipeline"], sorted(results["scale-users"]["points"], key=lambda point: point["size"])
    score_us = _score_us_per_1000(results["ranking"])
    in_cache = [point for point in users if point["size"] <= limits.cache_users_max]
    if not in_cache or "lists_per_event" not in in_cache[-1]:
        raise ClientError("bench scale-users has no size within the cache: measure it again")
    busy_cores = _busy_cores(pipeline)
    event_us, list_us = (busy_cores * us for us in _event_and_list_us(pipeline, in_cache[-1]))
    least, most = users[0], users[-1]
    grown = most["size"] - least["size"]
    cached = min(most["size"], limits.cache_users_max) - min(least["size"], limits.cache_users_max)
    stored = max((most["disk_mb"] - least["disk_mb"]) / grown * 1e6, 0.0)
    restored_s = max(most["restore_s"] - most["restart_s"], 0.1)
    partitions = [point["size"] for point in results.get("scale-partitions", {}).get("points", [])]
    return Costs(
        machine=f"{pipeline['machine']['cores']} cores of {pipeline['machine']['cpu']}",
        measured=f"{day}, headwater bench report --measure",
        event_us=round(event_us, 2),
        list_us=round(max(list_us - score_us * pipeline["catalogue_items"] / 1000, 0.0), 1),
        score_us_per_1000_items=round(score_us, 3),
        worker_memory_mb=least["memory_mb"],
        cached_user_bytes=round(max((most["memory_mb"] - least["memory_mb"]) / cached * 1e6, 0.0)),
        cached_users_max=limits.cache_users_max,
        stored_user_bytes=round(stored),
        changelog_user_bytes=round(stored),
        item_bytes=2 * 4 * 65,
        restore_users_per_s=round(most["size"] / restored_s),
        partitions_max=max([pipeline["partitions"], *partitions]),
    )


def _event_and_list_us(shared: Mapping[str, Any], alone: Mapping[str, Any]) -> tuple[float, float]:
    """An event's and a list's share, from the time an event where many share a list and where few do."""
    shared_us, alone_us = 1e6 / shared["events_per_s"], 1e6 / alone["events_per_s"]
    few, many = 1 / shared["events_per_list"], alone["lists_per_event"]
    list_us = (alone_us - shared_us) / (many - few) if many > few else 0.0
    if not 0 < list_us * few < shared_us:
        raise ClientError("bench pipeline and bench scale-users contradict each other: measure both in one go")
    return shared_us - list_us * few, list_us


def _busy_cores(pipeline: Mapping[str, Any]) -> float:
    """Of a worker at full load, whose threads overlap; at least the one that it waits for."""
    spent: Mapping[str, float] = pipeline["processor_us_per_event"]
    of_worker_us = sum(us for thread, us in spent.items() if thread != "broker")
    return max(of_worker_us * pipeline["events_per_s"] / 1e6, 1.0)


def _score_us_per_1000(ranking: Mapping[str, Any]) -> float:
    us = {size["items"]: size["ways"][0]["us_per_list"] for size in ranking["sizes"]}
    few, many = min(us), max(items for items in us if items <= 100_000)
    return (us[many] - us[few]) / (many - few) * 1000
