"""A worker that is stopped for longer than its session, and then goes on, harms nothing of the new owner's."""

from typing import Literal

import pytest

from streams.chaos.run import ChaosOptions, run
from streams.settings import BrokerSettings


@pytest.mark.kafka
@pytest.mark.timeout(290)
@pytest.mark.parametrize("delivery", ["exactly_once", pytest.param("at_least_once", marks=pytest.mark.slow)])
def test_three_zombies(kafka: str, delivery: Literal["exactly_once", "at_least_once"]) -> None:
    options = ChaosOptions(
        seed=11,
        counts={"zombie": 3},
        events_per_s=150,  # a backlog that small batches get through on a machine that has more to do
        delivery=delivery,
        given_broker=BrokerSettings(address=kafka),
    )
    report = run(options, echo=print)
    print(report)
    assert report.problems == []
    assert (report.lost, report.doubled) == (0, 0)
    assert report.ok
