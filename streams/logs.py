"""What a worker's log leaves out: the client's repeats while a broker is away, and what ends the worker in one line."""

import logging
import time
from collections.abc import Callable
from typing import Final

__all__ = ["RepeatFilter"]

_EVERY_S: Final = 10.0
_TALKATIVE: Final = ("aiokafka", "faust", "mode")


class RepeatFilter(logging.Filter):
    """Lets one warning or error of the libraries through every ten seconds, by what it says, and counts the others.

    A client that cannot reach its broker says so for each of its requests, some hundred times a second.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._passed: dict[tuple[str, str], tuple[float, int]] = {}
        """By logger and message without its arguments: when one passed last, and how many were left out since."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING or record.name.split(".", 1)[0] not in _TALKATIVE:
            return True
        now_s, kind = self._clock(), (record.name, str(record.msg))
        passed_s, left_out = self._passed.get(kind, (-_EVERY_S, 0))
        if now_s - passed_s < _EVERY_S:
            self._passed[kind] = passed_s, left_out + 1
            return False
        self._passed[kind] = now_s, 0
        if left_out:
            record.msg, record.args = f"{record.getMessage()} (and {left_out} like it were left out)", ()
        return True
