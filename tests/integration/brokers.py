"""Fixtures: one broker of each kind for the whole test session."""

import atexit
import functools
import os
import shutil

import pytest

from infra import broker
from infra.broker import Broker
from tests.integration.harness import KAFKA_PROPERTIES

__all__ = ["embedded", "kafka"]


@functools.cache
def _embedded() -> Broker:
    return _until_exit(broker.start("embedded"))


@functools.cache
def _kafka() -> Broker:
    return _until_exit(broker.start("kafka", properties=KAFKA_PROPERTIES))


def _until_exit(started: Broker) -> Broker:
    # Cached and not a fixture's: the conftest files of several folders share it.
    atexit.register(started.stop)
    return started


@pytest.fixture(scope="session")
def embedded() -> str:
    """Address of the embedded broker."""
    return _embedded().address


@pytest.fixture(scope="session")
def kafka() -> str:
    """Address of an Apache Kafka; skips where Java or Maven is missing, except in CI."""
    missing = [program for program in ("java", "mvn") if shutil.which(program) is None]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"Apache Kafka needs {' and '.join(missing)}")
    return _kafka().address
