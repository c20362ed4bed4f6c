"""Brokers for the tests of this folder."""

from tests.integration.brokers import embedded, kafka

__all__ = ["embedded", "kafka"]
