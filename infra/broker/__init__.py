"""Brokers to develop, test and measure against: the embedded one and Apache Kafka, each with one call."""

import signal
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from infra.broker.embedded import start_embedded
from infra.broker.errors import BrokerError
from infra.broker.kafka import Security, start_kafka
from infra.broker.process import Broker, BrokerKind
from infra.broker.security import USERS

__all__ = ["DEFAULT_PORT", "Broker", "BrokerError", "BrokerKind", "Security", "serve", "start"]

DEFAULT_PORT: Final = 9092


def start(
    kind: BrokerKind = "embedded",
    *,
    port: int = 0,
    controller_port: int = 0,
    heap: str = "512m",
    data_dir: str | Path | None = None,
    security: Security = "PLAINTEXT",
    secure: bool = False,
    properties: Mapping[str, str] | None = None,
    log_file: str | Path | None = None,
) -> Broker:
    """Start a broker on ``127.0.0.1`` and wait until clients can use it.

    ``port``: 0 for a free one. Every option but ``port`` and ``log_file`` is for ``kind="kafka"``: see
    :func:`infra.broker.kafka.start_kafka`. The broker goes when it is stopped and when this process ends,
    however it ends. Raises :class:`BrokerError`, whose message says what to do.
    """
    log = Path(log_file).absolute() if log_file else None
    if kind == "kafka":
        return start_kafka(
            port,
            controller_port=controller_port,
            heap=heap,
            data_dir=Path(data_dir) if data_dir else None,
            security=security,
            secure=secure,
            properties=properties,
            log_file=log,
        )
    if data_dir or properties or controller_port or secure or security != "PLAINTEXT":
        raise BrokerError("the embedded broker keeps records in memory and has no options but a port: use --kind kafka")
    return start_embedded(port, log)


def serve(
    kind: BrokerKind = "embedded",
    *,
    port: int = DEFAULT_PORT,
    heap: str = "512m",
    data_dir: str | Path | None = None,
    secure: bool = False,
    log_file: str | Path | None = None,
    echo: Callable[[str], object] = print,
) -> None:
    """Run a broker until SIGINT or SIGTERM; ``echo`` gets one line with its address when it is ready.

    To be called from the main thread. Raises :class:`BrokerError` when the broker does not start or ends by
    itself.
    """
    with _stopped_by_signals():
        broker = start(kind, port=port, heap=heap, data_dir=data_dir, secure=secure, log_file=log_file)
        with broker:
            echo(f"{kind} broker ready on {broker.address} (pid {broker.pid}){_where(broker, secure)}; Ctrl-C stops it")
            raise BrokerError(f"the {kind} broker ended by itself: {broker.last_words()}")


def _where(broker: Broker, secure: bool) -> str:
    return f"; settings for --config in {broker.data_dir}/clients/ ({', '.join(USERS)})" if secure else ""


class _Stop(BaseException):
    """A signal asked for the end; not an Exception, so that nothing on the way takes it for an error."""


@contextmanager
def _stopped_by_signals() -> Generator[None]:
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("serve() handles signals and so has to run in the main thread")
    signals = (signal.SIGINT, signal.SIGTERM)

    def stop(_signal: int, _frame: object) -> None:
        # Once is enough: the clean stop that follows has its own time limit.
        for each in signals:
            signal.signal(each, signal.SIG_IGN)
        raise _Stop

    before = [signal.signal(each, stop) for each in signals]
    try:
        yield
    except _Stop:
        pass
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)
