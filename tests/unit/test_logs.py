"""The libraries' repeats in a worker's log."""

import logging

import pytest

from streams.logs import RepeatFilter


class Clock:
    now_s = 5.0

    def __call__(self) -> float:
        return self.now_s


def record(name: str, message: str, *arguments: object, level: int = logging.ERROR) -> logging.LogRecord:
    return logging.LogRecord(name, level, "", 0, message, arguments, None)


def test_one_of_a_kind_passes_every_ten_seconds_and_tells_how_many_did_not() -> None:
    clock = Clock()
    keep = RepeatFilter(clock)
    told: list[str] = []
    for _ in range(1_400):
        one = record("aiokafka", "Unable connect to node with id %s", 1)
        if keep.filter(one):
            told.append(one.getMessage())
        clock.now_s += 1 / 64  # a number that adds up
    assert told == [
        "Unable connect to node with id 1",
        "Unable connect to node with id 1 (and 639 like it were left out)",
        "Unable connect to node with id 1 (and 639 like it were left out)",
    ]


def test_kinds_do_not_hide_each_other() -> None:
    keep = RepeatFilter(Clock())
    assert keep.filter(record("aiokafka", "a"))
    assert keep.filter(record("aiokafka", "b"))
    assert keep.filter(record("aiokafka.cluster", "a"))
    assert not keep.filter(record("aiokafka", "a"))


@pytest.mark.parametrize("name", ["streams.app", "models.failover", "aiokafkaesque"])
def test_our_own_words_always_pass(name: str) -> None:
    keep = RepeatFilter(Clock())
    assert all(keep.filter(record(name, "a")) for _ in range(3))
    assert all(keep.filter(record("aiokafka", "a", level=logging.INFO)) for _ in range(3))
