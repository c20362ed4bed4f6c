"""murmur2 against the Kafka clients' own."""

import random
from importlib import import_module

import pytest

from operators.partition import murmur2, partition_of

KEYS = random.Random(2)
CLIENTS = ("aiokafka.partitioner", "kafka.partitioner.default")


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        # org.apache.kafka.common.utils.UtilsTest.testMurmur2
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_values_of_kafkas_own_test(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected % 2**32


@pytest.mark.parametrize("client", CLIENTS)
def test_equals_the_clients_on_random_keys(client: str) -> None:
    of_client = import_module(client).murmur2
    for _ in range(5_000):
        key = KEYS.randbytes(KEYS.randrange(40))
        assert murmur2(key) == of_client(key) & 0xFFFFFFFF


def test_partitions_are_in_range_and_even() -> None:
    counts = [0] * 7
    for n in range(7_000):
        counts[partition_of(f"user-{n}".encode(), 7)] += 1
    assert min(counts) > 800
