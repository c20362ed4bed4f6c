"""Bounds that must fit each other."""

import numpy as np
import pytest

from operators import limits
from operators.candidates.popularity import Popularity
from operators.kernels import caused_by
from operators.lists import causes_max
from streams.settings import TopicSettings

UNITS = ("_max", "_min", "_ms", "_s", "_lists", "_events", "_bytes")


def test_all_names_every_bound_with_its_unit_and_no_other() -> None:
    names = {name for name in vars(limits) if not name.startswith("_") and name != "Final"}
    assert names == set(limits.__all__)
    assert list(limits.__all__) == sorted(limits.__all__)
    assert all(name.endswith(UNITS) for name in names)
    assert all(value >= 0 for name, value in vars(limits).items() if name in names)


def test_a_chunk_fits_a_batch_and_the_batches_in_work_fit_the_cache() -> None:
    assert limits.chunk_records_max <= limits.batch_events_max
    in_work = limits.computed_batches_max + limits.settling_batches_max
    assert limits.cache_users_max >= in_work * limits.batch_events_max


def test_a_popularity_snapshot_of_the_longest_ids_fits_a_produce_batch() -> None:
    popularity = Popularity()
    for n in range(limits.popularity_snapshot_items_max + 100):
        popularity.add(f"{n}".rjust(limits.id_bytes_max, "i"), 1_700_000_000_000)
    assert len(popularity.snapshot()) < limits.produce_batch_bytes_max


def test_a_time_in_microseconds_is_out_of_range() -> None:
    assert limits.timestamp_ms_max < 1_000_000_000_000_000


@pytest.mark.parametrize("topic", [TopicSettings().purchase, "t" * 249])
def test_the_causes_of_a_user_who_has_a_whole_batch_fit_a_record(topic: str) -> None:
    count = causes_max([topic])
    opening = b'{"topic":"%b","partition":' % topic.encode()
    partitions, offsets = np.array([1023]), np.full(count, np.iinfo(np.int64).max)
    (causes,) = caused_by([opening], partitions, np.zeros(count, np.int64), offsets, np.array([0, count]))
    assert limits.list_causes_bytes_max - 1_000 < len(causes) <= limits.list_causes_bytes_max


def test_the_default_topics_leave_a_batch_whole() -> None:
    assert causes_max(TopicSettings().sources) >= limits.batch_events_max
