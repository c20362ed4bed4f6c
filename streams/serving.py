"""The process of a worker: what asks it to stop, how long that may take, and what it says in the end."""

import asyncio
import logging
import os
import signal
import sys
import threading
from typing import NoReturn

from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedCodecError,
)

from models.errors import ModelError
from operators import limits
from operators.state import StateError
from streams.app import Worker, WorkerError
from streams.clients.errors import ClientError
from streams.engine import DrainError
from streams.logs import RepeatFilter
from streams.reach import not_allowed
from streams.recovery import RecoveryError
from streams.resources import SystemLimitError, explained
from streams.settings import Settings, SettingsError
from streams.sources import SourceError
from streams.store import StoreError
from streams.transactions import FencedError

__all__ = ["run_worker"]

log = logging.getLogger(__name__)

_NOT_ALLOWED = (TopicAuthorizationFailedError, GroupAuthorizationFailedError, TransactionalIdAuthorizationFailed)
_EXPLAINED = (
    WorkerError,
    ModelError,
    StoreError,
    SystemLimitError,
    SourceError,
    StateError,
    SettingsError,
    ClientError,
    FencedError,
    DrainError,
    RecoveryError,
)
"""Their message says everything."""
_ONE_LINE = (*_NOT_ALLOWED, *_EXPLAINED, UnsupportedCodecError)
"""What ends the worker with one line and no traceback."""


async def _serve(settings: Settings) -> None:
    worker = Worker(settings)
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, _ask_to_stop, worker)
    starting = asyncio.create_task(worker.start(), name="headwater-start")
    stopped_early = asyncio.create_task(worker.stopping.wait())
    await asyncio.wait([starting, stopped_early], return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        log.info("stopped while starting")
        await worker.leave()
        _exit_now(0)
    starting.result()
    try:
        await worker.wait()
        await worker.stop()
    except FencedError:
        if not worker.stopping.is_set():
            raise
        log.warning(
            "stopped; its partitions have gone to another worker, because it was stopped or cut off for longer than"
            " worker.session_timeout_s: that one does again what was in work"
        )


def _ask_to_stop(worker: Worker) -> None:
    """From now on the process ends within ``limits.stop_max_s``, whatever the broker does."""
    if not worker.stopping.is_set():
        worker.stopping.set()
        bound = threading.Timer(limits.stop_max_s, _stop_unfinished)
        bound.daemon = True
        bound.start()


async def _serve_or_exit(settings: Settings) -> NoReturn:
    """Serve, then end the process here; after an error at once.

    An orderly stop of what has failed could only wait, as Faust's services do for each other, and nothing needs
    it: whatever was not settled was not acknowledged.
    """
    try:
        await _serve(settings)
    except _EXPLAINED as error:
        log.error("%s", error)
    except _NOT_ALLOWED as error:
        log.error("%s", not_allowed(settings.broker, error))
    except UnsupportedCodecError as error:
        log.error(
            "records of a topic are compressed in a way that this installation cannot read: %s; nothing of the batch in"
            " work was acknowledged. Install headwater anew, with its dependencies, and start again",
            error,
        )
    except KafkaError as error:
        log.error(
            "the broker refused a request of the worker: %s; nothing of the batch in work was acknowledged."
            " Mend the cause and start again",
            error,
        )
    except OSError as error:
        log.error("the system refused something: %s; nothing of the batch in work was acknowledged", explained(error))
    except Exception:
        log.exception("the worker had to stop; nothing of the batch in work was acknowledged")
    else:
        _exit_now(0)  # a thread may still wait for the broker, with nothing to finish
    _exit_now(1)


def _is_not_explained(record: logging.LogRecord) -> bool:
    """Keep out what the client and Faust's services log, one after the other, of what ends the worker in one line."""
    if record.exc_info is not None and isinstance(record.exc_info[1], _ONE_LINE):
        return False
    return not (record.name.startswith("aiokafka") and "AuthorizationFailedError" in record.getMessage())


def _stop_unfinished() -> None:
    log.error(
        "the worker has not ended in good order within %g s: the broker or the disk does not answer. Nothing of the"
        " batch in work was acknowledged",
        limits.stop_max_s,
    )
    _exit_now(1)


def _exit_now(status: int) -> NoReturn:
    logging.shutdown()
    sys.stderr.flush()
    os._exit(status)


def run_worker(settings: Settings) -> None:
    """Run one worker until SIGTERM or SIGINT, then end the process: with 0, or with 1 after an error."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_not_explained)
        handler.addFilter(RepeatFilter())
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what this client would say is in our own errors
    asyncio.run(_serve_or_exit(settings))
