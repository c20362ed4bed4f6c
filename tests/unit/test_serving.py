"""What a worker says when it ends: one line for what is explained, and the status."""

# pyright: reportPrivateUsage=false

import asyncio
import logging
from typing import Any

import pytest
from aiokafka.errors import UnsupportedCodecError

from operators.state import StateError
from streams import serving
from streams.engine import DrainError
from streams.recovery import RecoveryError
from streams.settings import Settings
from streams.transactions import FencedError


class ExitedError(Exception):
    """Instead of the end of the process."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def exit_now(status: int) -> Any:
    raise ExitedError(status)


def end_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> int:
    """The status of a worker that ``error`` ends."""

    async def serve(_: Settings) -> None:
        raise error

    monkeypatch.setattr(serving, "_serve", serve)
    monkeypatch.setattr(serving, "_exit_now", exit_now)
    with pytest.raises(ExitedError) as ended:
        asyncio.run(serving._serve_or_exit(Settings()))
    return ended.value.status


@pytest.mark.parametrize(
    "error", [DrainError(), RecoveryError(90.0), FencedError(), StateError("damaged: start this worker again")]
)
def test_an_explained_error_is_one_line_with_a_next_step_and_ends_the_process(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert end_with(error, monkeypatch) == 1
    (line,) = caplog.records
    assert line.getMessage() == str(error)
    assert "\n" not in str(error)
    assert "start this worker again" in str(error)
    assert line.exc_info is None


def test_a_codec_that_is_lacking_is_not_laid_at_the_brokers_door(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert end_with(UnsupportedCodecError("Libraries for lz4 compression codec not found"), monkeypatch) == 1
    (line,) = caplog.records
    assert "lz4" in line.getMessage()
    assert "Install headwater anew" in line.getMessage()
    assert "broker" not in line.getMessage()


@pytest.mark.parametrize("error", [DrainError(), RecoveryError(90.0), FencedError(), UnsupportedCodecError("lz4")])
def test_what_the_services_log_of_it_on_the_way_is_left_out(error: Exception) -> None:
    crashed = logging.LogRecord("mode", logging.ERROR, "", 0, "Crashed", (), (type(error), error, None))
    assert not serving._is_not_explained(crashed)
    other = logging.LogRecord("mode", logging.ERROR, "", 0, "Crashed", (), (OSError, OSError("disk"), None))
    assert serving._is_not_explained(other)
