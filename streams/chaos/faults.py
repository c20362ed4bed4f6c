"""The injectors: each does its damage on entering and undoes it on leaving."""

import os
import signal
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from streams.chaos.schedule import Fault, FaultKind
from streams.chaos.stage import Stage
from streams.clients.errors import ClientError

__all__ = ["injected"]

_LEAVE_S_MAX: Final = 30.0


def injected(stage: Stage, fault: Fault) -> AbstractContextManager[None]:
    """The fault, for as long as the block runs."""
    return _INJECTORS[fault.kind](stage, fault)


@contextmanager
def _kill(stage: Stage, fault: Fault) -> Generator[None]:
    worker = stage.workers[fault.worker]
    worker.kill()
    if fault.wiped:
        worker.wipe()
    yield
    worker.start()


@contextmanager
def _rebalance(stage: Stage, fault: Fault) -> Generator[None]:
    """A worker leaves in good order and joins again."""
    worker = stage.workers[fault.worker].wait_ready()
    status = worker.terminate(_LEAVE_S_MAX)
    if status:
        raise ClientError(f"{worker.name} left with status {status}: {worker.last_words()}")
    yield
    worker.start()


@contextmanager
def _zombie(stage: Stage, fault: Fault) -> Generator[None]:
    """A worker freezes past its session; it wakes up believing that its partitions are still its own."""
    worker = stage.workers[fault.worker]
    worker.suspend()
    yield
    worker.resume()


@contextmanager
def _broker_kill(stage: Stage, _: Fault) -> Generator[None]:
    stage.broker.running.kill()
    yield
    stage.broker.restart()


@contextmanager
def _broker_freeze(stage: Stage, _: Fault) -> Generator[None]:
    pid = stage.broker.running.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def _network_cut(stage: Stage, fault: Fault) -> Generator[None]:
    with stage.links[fault.worker].cut():
        yield


@contextmanager
def _network_slow(stage: Stage, fault: Fault) -> Generator[None]:
    with stage.links[fault.worker].slow():
        yield


_INJECTORS: Final[Mapping[FaultKind, Callable[[Stage, Fault], AbstractContextManager[None]]]] = {
    "kill": _kill,
    "broker-kill": _broker_kill,
    "broker-freeze": _broker_freeze,
    "network-cut": _network_cut,
    "network-slow": _network_slow,
    "rebalance": _rebalance,
    "zombie": _zombie,
}
