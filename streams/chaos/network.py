"""A network of its own for each worker, which can be cut or made slow without touching any other.

Linux only, and for root: a network namespace a worker, joined to this one by a pair of virtual interfaces with
addresses of a small private range. Everything is taken down on leaving.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final, NamedTuple

from streams.clients.errors import ClientError

__all__ = ["Link", "links", "why_no_networks"]

_RANGE: Final = "10.213"
"""Of the links: four addresses each, this side's the first and the worker's the second."""
_NOBODY: Final = "02:00:00:00:00:01"
"""A hardware address that no interface has: what is sent there is lost in silence."""
_DELAY: Final = ("netem", "delay", "150ms", "50ms", "loss", "3%")
_NARROW: Final = ("tbf", "rate", "2mbit", "burst", "16kb", "latency", "400ms")
"""Where the kernel has no netem: 2 Mbit/s, and what waits for more than 400 ms is dropped."""


class Link(NamedTuple):
    """The way between a worker's namespace and the broker."""

    namespace: str
    here: str
    """Name of this side's interface; the other side's is ``there``."""
    there: str
    broker_host: str
    """This side's address."""
    worker_host: str

    @property
    def prefix(self) -> list[str]:
        """The command that runs another one inside."""
        return ["ip", "netns", "exec", self.namespace]

    @contextmanager
    def cut(self) -> Generator[None]:
        """Nothing passes, in either direction, and neither side is told."""
        for inside, device, address in self._ends():
            _ip(*inside, "neigh", "replace", address, "lladdr", _NOBODY, "nud", "permanent", "dev", device)
        try:
            yield
        finally:
            for inside, device, address in self._ends():
                _ip(*inside, "neigh", "del", address, "dev", device)

    @contextmanager
    def slow(self) -> Generator[None]:
        """Everything passes late (netem) or through a narrow pipe (where there is no netem)."""
        devices = [(inside, device) for inside, device, _ in self._ends()]
        shape = _shape(devices[0][1])
        for inside, device in devices:
            _run("tc", *inside, "qdisc", "replace", "dev", device, "root", *shape)
        try:
            yield
        finally:
            for inside, device in devices:
                _run("tc", *inside, "qdisc", "del", "dev", device, "root")

    def _ends(self) -> list[tuple[list[str], str, str]]:
        """Of both sides: where it is, its interface, the other side's address."""
        return [([], self.here, self.worker_host), (["-n", self.namespace], self.there, self.broker_host)]


def why_no_networks() -> str | None:
    """Why this machine cannot have network faults; None where it can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [program for program in ("ip", "tc") if shutil.which(program) is None]
    if missing:
        return f"{' and '.join(missing)} of iproute2 is missing"
    try:
        with links(1) as (link,), link.cut(), link.slow():
            return None
    except ClientError as error:
        return str(error)


@contextmanager
def links(count: int) -> Generator[list[Link]]:
    """``count`` namespaces, each with its link.

    Raises:
        ClientError: the system refuses them; the message has its words.
    """
    with ExitStack() as stack:
        yield [stack.enter_context(_link(number)) for number in range(count)]


@contextmanager
def _link(number: int) -> Generator[Link]:
    at = (os.getpid() * 4 + number) % (1 << 14)
    base = f"{_RANGE}.{at >> 6}."
    low = (at & 63) * 4
    name = f"hw{os.getpid()}-{number}"
    link = Link(name, f"{name}a", f"{name}b", f"{base}{low + 1}", f"{base}{low + 2}")
    with ExitStack() as stack:
        _ip("netns", "add", name)
        stack.callback(_ip, "netns", "del", name)
        stack.enter_context(_veth(link))
        for inside, device, address in (
            ([], link.here, link.broker_host),
            (["-n", name], link.there, link.worker_host),
        ):
            _ip(*inside, "address", "add", f"{address}/30", "dev", device)
            _ip(*inside, "link", "set", device, "up")
        _ip("-n", name, "link", "set", "lo", "up")
        yield link


@contextmanager
def _veth(link: Link) -> Generator[None]:
    _ip("link", "add", link.here, "type", "veth", "peer", "name", link.there, "netns", link.namespace)
    try:
        yield
    finally:
        _ip("link", "del", link.here)  # at once; those of a namespace that goes take their time


def _shape(device: str) -> Sequence[str]:
    probe = subprocess.run(["tc", "qdisc", "replace", "dev", device, "root", *_DELAY], capture_output=True, check=False)
    return _NARROW if probe.returncode else _DELAY


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClientError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
