"""Where a run plays: the broker, the workers and, where the network is to fail, their namespaces."""

import shutil
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from infra import broker
from infra.broker import Broker
from infra.broker.probe import claim_port
from streams.chaos.network import Link, links
from streams.chaos.scratch import KAFKA_PROPERTIES, create_timed_topics, scratch_settings
from streams.clients.errors import ClientError
from streams.settings import BrokerSettings, Settings
from streams.worker_process import WorkerProcess

__all__ = ["Stage", "staged"]

_FLUSH_INTERVAL_S: Final = 0.3
_BROKER_HEAP: Final = "512m"


class Stage:
    """The broker and the workers of a run."""

    def __init__(
        self,
        settings: Settings,
        workers: Sequence[WorkerProcess],
        links: Sequence[Link],
        own: "OwnBroker | None",
        keep_files: Callable[[], object],
    ) -> None:
        """``own`` is None where the broker is somebody else's; ``keep_files`` lets logs and data stay on leaving."""
        self.settings = settings
        self.workers = workers
        self.links = links
        self.keep_files = keep_files
        self._own = own
        self.deaths: list[str] = []
        """Workers that ended by themselves: exit status and last words."""

    @property
    def broker(self) -> "OwnBroker":
        """The broker of the run.

        Raises:
            ClientError: it is somebody else's, and not ours to harm.
        """
        if self._own is None:
            raise ClientError("a broker given by HEADWATER_BROKER is not ours to kill; unset it for these faults")
        return self._own

    def revive(self) -> None:
        """Start every worker that has ended by itself again."""
        for worker in self.workers:
            if not worker.is_running():
                self.start_again(worker)

    def start_again(self, worker: WorkerProcess) -> None:
        """Note how a worker ended by itself, and start it."""
        self.deaths.append(f"{worker.name}, status {worker.process.returncode}: {worker.last_words()}")
        worker.start()


class OwnBroker:
    """An Apache Kafka of the run's own that comes back on the same port with the same data."""

    def __init__(self, home: Path, listeners: Sequence[Link]) -> None:
        self._home = home
        self._port, self._controller_port = claim_port(0), claim_port(0)
        self.ports = [claim_port(0) for _ in listeners]
        """Of the listener of each link."""
        names = ["CLIENT", *(f"LINK{n}" for n in range(len(listeners)))]
        hosts = ["127.0.0.1", *(link.broker_host for link in listeners)]
        ports = [self._port, *self.ports]
        sockets = [f"{name}://{host}:{port}" for name, host, port in zip(names, hosts, ports, strict=True)]
        self._properties = {
            **KAFKA_PROPERTIES,
            "listeners": ",".join([*sockets, f"CONTROLLER://127.0.0.1:{self._controller_port}"]),
            "advertised.listeners": ",".join(sockets),
            "listener.security.protocol.map": ",".join(f"{name}:PLAINTEXT" for name in [*names, "CONTROLLER"]),
        }
        self.running: Broker = self._start()

    @property
    def address(self) -> str:
        """Of the listener of this machine."""
        return self.running.address

    def stop(self) -> None:
        """End the broker that runs now, which need not be the first one."""
        self.running.stop()

    def restart(self) -> None:
        """Start it again; returns when it answers.

        Raises:
            BrokerError: it does not come up.
        """
        self.running = self._start()

    def _start(self) -> Broker:
        return broker.start(
            "kafka",
            port=self._port,
            controller_port=self._controller_port,
            heap=_BROKER_HEAP,
            data_dir=self._home / "broker",
            properties=self._properties,
        )


@contextmanager
def staged(
    given: BrokerSettings | None,
    *,
    workers: int,
    networks: bool,
    home: Path | None,
    echo: Callable[[str], object],
    flushes_often: bool = True,
    **worker: Any,
) -> Generator[Stage]:
    """A broker, topics and ready workers; everything goes on leaving, but for logs and data where something failed.

    Args:
        given: the broker to use, None for one of the run's own.
        workers: how many.
        networks: a namespace for each worker; only with a broker of our own.
        home: an empty directory for logs and data, which stays; None for a temporary one.
        echo: gets a line of progress before every step.
        flushes_often: killed workers leave a part of their state on disk.
        worker: fields of the workers' settings.

    Raises:
        BrokerError, ClientError: something did not start.
    """
    with ExitStack() as stack:
        scratch = _Scratch(echo)
        home = home or stack.enter_context(scratch)
        ways = stack.enter_context(links(workers)) if networks else []
        own = None if given is not None else OwnBroker(home, ways)
        if own is not None:
            stack.callback(own.stop)
        reached = given or BrokerSettings(address=own.address if own else "")
        echo(f"broker on {reached.address}; starting {workers} workers")
        settings = scratch_settings(reached, home, **worker)
        create_timed_topics(settings)
        flush_interval_s = _FLUSH_INTERVAL_S if flushes_often else None
        started = [
            stack.enter_context(_worker(settings, home, number, ways, own.ports if own else [], flush_interval_s))
            for number in range(workers)
        ]
        for process in started:
            process.start()
        for process in started:
            process.wait_ready()
        yield Stage(settings, started, ways, own, scratch.keep)


class _Scratch(AbstractContextManager[Path]):
    """A directory that goes on leaving, unless the run failed: what its files say may not come again."""

    def __init__(self, echo: Callable[[str], object]) -> None:
        self._echo = echo
        self._stays = False

    def __enter__(self) -> Path:
        self._path = Path(tempfile.mkdtemp(prefix="headwater-chaos-"))
        return self._path

    def keep(self) -> None:
        """It stays on leaving."""
        self._stays = True

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._stays or (kind is not None and issubclass(kind, Exception)):
            self._echo(f"failed; logs and data stay in {self._path}")
        else:
            shutil.rmtree(self._path, ignore_errors=True)


def _worker(
    settings: Settings,
    home: Path,
    number: int,
    ways: Sequence[Link],
    ports: Sequence[int],
    flush_interval_s: float | None,
) -> WorkerProcess:
    prefix: list[str] = []
    if ways:
        there = BrokerSettings(address=f"{ways[number].broker_host}:{ports[number]}")
        settings = msgspec.structs.replace(settings, broker=there)
        prefix = ways[number].prefix
    return WorkerProcess(settings, home, f"worker-{number}", flush_interval_s=flush_interval_s, prefix=prefix)
