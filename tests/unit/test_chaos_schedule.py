"""streams.chaos.schedule: seeded, and within its ranges."""

import pytest

from streams.chaos.schedule import KINDS, drawn_faults, parse_faults, planned_s
from streams.clients.errors import InputError


def test_the_same_seed_gives_the_same_schedule() -> None:
    counts = parse_faults("all")
    drawn = [drawn_faults(seed, counts, workers=3, session_timeout_s=6.0) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_every_fault_that_was_asked_for_is_drawn() -> None:
    faults = drawn_faults(3, parse_faults("kill=40,zombie=2"), workers=2, session_timeout_s=6.0)
    kinds = [fault.kind for fault in faults]
    assert (kinds.count("kill"), kinds.count("zombie"), len(kinds)) == (40, 2, 42)
    kills = [fault for fault in faults if fault.kind == "kill"]
    assert {fault.worker for fault in kills} == {0, 1}
    assert all(0.1 <= fault.after_s <= 6 for fault in kills)
    assert [fault.wiped for fault in kills] == [kills[0].wiped != bool(n % 2) for n in range(40)]
    assert all(fault.lasts_s > 6 and not fault.wiped for fault in faults if fault.kind == "zombie")


def test_minutes_repeat_the_faults() -> None:
    faults = drawn_faults(4, parse_faults("kill=2,rebalance=1"), workers=2, session_timeout_s=6.0, minutes=5)
    assert 300 <= planned_s(faults) < 325
    assert planned_s(faults[:-1]) < 300


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("kill", {"kill": 10}),
        (" kill=3, zombie ", {"kill": 3, "zombie": 2}),
        ("broker=5", {"broker-kill": 5, "broker-freeze": 5}),
        ("network", {"network-cut": 2, "network-slow": 2}),
        ("all=1", dict.fromkeys(KINDS, 1)),
        ("all=1,kill=7", {**dict.fromkeys(KINDS, 1), "kill": 7}),
    ],
)
def test_faults_are_read(text: str, counts: dict[str, int]) -> None:
    assert parse_faults(text) == counts


@pytest.mark.parametrize("text", ["", "kill=0", "nonsense", "kill=", "kill=-1", "kill=99999", "KILL"])
def test_what_is_no_list_of_faults_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--faults"):
        parse_faults(text)
