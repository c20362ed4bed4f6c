"""The plan's arithmetic, the slopes it is made from, and their names."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from operators.plan import Costs, Need, PlanError, plan
from streams.bench.slopes import slope_of
from streams.clients.errors import ClientError, InputError
from streams.plan import costs_of, plan_for, read_costs

COSTS = Costs(
    machine="one",
    measured="today",
    event_us=20.0,
    list_us=100.0,
    score_us_per_1000_items=2.0,
    worker_memory_mb=200.0,
    cached_user_bytes=5_000.0,
    cached_users_max=50_000,
    stored_user_bytes=4_000.0,
    changelog_user_bytes=3_000.0,
    item_bytes=500.0,
    restore_users_per_s=10_000.0,
    partitions_max=256,
)


def test_a_plan_by_hand() -> None:
    made = plan(Need(events_per_s=10_000, users=3_000_000, items=40_000, cores_per_machine=4, replicas=3), COSTS)
    # 20 + 100 + 2 * 40 = 200 us an event: two cores busy, so four at half load, on one machine of four.
    assert (made.workers, made.machines, made.utilization) == (4, 1, 0.5)
    assert made.partitions == 16
    # A worker: 200 MB, 40,000 items of 500 bytes, 50,000 of its 750,000 users of 5,000 bytes: 470 MB.
    assert made.memory_gb_per_machine == pytest.approx(4 * 0.470)
    assert made.disk_gb_per_machine == 18.0
    assert made.changelog_disk_gb == 3_000_000 * 3_000 * 2 * 3 / 1e9
    assert made.restore_minutes == pytest.approx(1.25)
    assert any("read from disk" in note for note in made.notes)


def test_a_small_shop_needs_one_worker() -> None:
    made = plan(Need(events_per_s=1, users=100, items=10), COSTS)
    assert (made.workers, made.machines, made.partitions) == (1, 1, 8)
    assert made.utilization < 0.01


@pytest.mark.parametrize("field", ["events_per_s", "users", "items"])
def test_more_never_needs_less(field: str) -> None:
    need = Need(events_per_s=5_000, users=100_000, items=10_000)
    made = [plan(msgspec.structs.replace(need, **{field: getattr(need, field) * n}), COSTS) for n in (1, 2, 5, 50)]
    for name in ("workers", "machines", "partitions", "changelog_disk_gb"):
        values = [getattr(each, name) for each in made]
        assert values == sorted(values)
    assert made[-1] != made[0]


def test_lists_that_several_events_share_cost_less() -> None:
    need = Need(events_per_s=10_000, users=1_000, items=40_000)
    assert plan(msgspec.structs.replace(need, lists_per_event=0.1), COSTS).workers < plan(need, COSTS).workers


def test_many_workers_leave_what_was_measured() -> None:
    made = plan(Need(events_per_s=1e6, users=1_000, items=40_000), COSTS)
    assert made.partitions >= 4 * made.workers > 256
    assert any("256 partitions" in note for note in made.notes)


@pytest.mark.parametrize("changes", [{"events_per_s": 0}, {"users": -1}, {"items": 10**13}, {"lists_per_event": 0.0}])
def test_needs_that_are_none(changes: dict[str, Any]) -> None:
    need = msgspec.structs.replace(Need(events_per_s=1, users=1, items=1), **changes)
    with pytest.raises(PlanError, match=next(iter(changes))):
        plan(need, COSTS)


def test_costs_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    with pytest.raises(ClientError, match="--measure"):
        read_costs(file)
    file.write_bytes(msgspec.json.encode(COSTS))
    made, costs = plan_for(Need(events_per_s=10_000, users=1, items=40_000), file)
    assert (made.workers, costs) == (4, COSTS)
    with pytest.raises(InputError, match="items"):
        plan_for(Need(events_per_s=1, users=1, items=0), file)


def _point(size: int, memory: float, disk: float, restore: float) -> dict[str, float]:
    return {"size": size, "memory_mb": memory, "disk_mb": disk, "restore_s": restore, "restart_s": 3.0}


def test_costs_are_the_slopes_of_the_benches() -> None:
    # An event takes 20 us and a list 300 us, while one and a quarter cores are busy; 13.343 x 5 of a list is scoring.
    pipeline = {
        "events_per_list": 10.0,
        "events_per_s": 1e6 / 50,
        "processor_us_per_event": {"core": 40.0, "lists": 22.5, "broker": 90.0},
        "catalogue_items": 13_343,
        "partitions": 8,
        "machine": {"cores": 2, "cpu": "x"},
    }
    ranking = {
        "sizes": [
            {"items": 1_000, "ways": [{"us_per_list": 7.0}]},
            {"items": 100_000, "ways": [{"us_per_list": 7.0 + 99 * 5}]},
            {"items": 1_000_000, "ways": [{"us_per_list": 1e9}]},
        ]
    }
    # Half as many lists as events at the largest size within the cache, which holds 50,000 users.
    sizes = [_point(100_000, 450.0, 401.0, 13.0), _point(10_000, 300.0, 41.0, 4.0), _point(1_000, 205.0, 5.0, 3.0)]
    sizes[1] |= {"events_per_s": 1e6 / 170, "lists_per_event": 0.5}
    users = {"points": sizes}
    results = {"pipeline": pipeline, "ranking": ranking, "scale-users": users}
    results["scale-partitions"] = {"points": [{"size": 8}, {"size": 256}]}
    costs = costs_of(results, "today")
    assert costs.event_us == pytest.approx(25.0)
    assert costs.score_us_per_1000_items == pytest.approx(5.0)
    assert costs.list_us == pytest.approx(375 - 13.343 * 5, abs=0.1)
    waiting = results | {"pipeline": pipeline | {"processor_us_per_event": {"core": 40.0}}}
    assert costs_of(waiting, "today").event_us == pytest.approx(20.0), "a core that waits is taken all the same"
    assert costs.cached_user_bytes == pytest.approx(5_000)
    assert costs.stored_user_bytes == pytest.approx(4_000)
    assert costs.restore_users_per_s == pytest.approx(10_000)
    assert costs.partitions_max == 256
    slower = results | {"pipeline": pipeline | {"events_per_s": 1e6 / 180}}
    with pytest.raises(ClientError, match="contradict"):
        costs_of(slower, "today")
    faster = results | {"pipeline": pipeline | {"events_per_s": 1e6 / 15}}
    with pytest.raises(ClientError, match="contradict"):
        costs_of(faster, "today")
    with pytest.raises(ClientError, match="scale-users"):
        costs_of({"pipeline": pipeline, "ranking": ranking}, "today")
    with pytest.raises(ClientError, match="scale-users has no size within the cache"):
        costs_of(results | {"scale-users": {"points": sizes[:1]}}, "today")


@pytest.mark.parametrize(
    ("figures", "name"),
    [
        ([5, 5.1, 5], "constant"),
        ([1, 3.2, 10], "less than linear"),
        ([2, 20, 200], "linear"),
        ([1, 100, 10_000], "worse than linear"),
        ([100, 10, 1], "falling"),
        ([0, 1, 2], "unknown"),
    ],
)
def test_growth_has_a_name(figures: list[float], name: str) -> None:
    assert slope_of([10, 100, 1_000], figures).name == name


def test_one_size_has_no_slope() -> None:
    assert slope_of([10], [3]).name == "unknown"
    assert slope_of([10, 10], [3, 4]).name == "unknown"
