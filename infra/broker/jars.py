"""Apache Kafka's jars: fetched by Maven once, kept in a cache outside the repository."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from infra.broker.errors import BrokerError

__all__ = ["cache_directory", "jar_directory", "kafka_version"]

_POM: Final = Path(__file__).with_name("pom.xml")
_MARKER: Final = "complete.json"
_MAVEN_TIMEOUT_S: Final = 600
_MAVEN_HELP: Final = (
    "install it (Debian: apt-get install maven; macOS: brew install maven) for this first start, "
    "or use the embedded broker or Docker"
)


def kafka_version() -> str:
    """The version of Apache Kafka named in ``pom.xml``."""
    found = re.search(r"<kafka\.version>([^<]+)</kafka\.version>", _POM.read_text("utf-8"))
    if found is None:
        raise BrokerError(f"{_POM} names no kafka.version: restore it")
    return found[1]


def cache_directory() -> Path:
    """``$XDG_CACHE_HOME/headwater``, or ``~/.cache/headwater``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headwater"


def jar_directory() -> Path:
    """A directory with every jar of the server; Maven runs only when the cache has no complete one.

    Safe for several starts at once: one fetches, the others wait. Raises :class:`BrokerError` when Maven is
    missing or fails.
    """
    final = cache_directory() / f"kafka-{kafka_version()}"
    if _is_complete(final):
        return final
    with _lock(final.with_suffix(f"{final.suffix}.lock")):
        if not _is_complete(final):
            _fetch(final)
    return final


def _fetch(final: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise BrokerError(f"fetching Apache Kafka {kafka_version()} needs Maven, and mvn is not on PATH: {_MAVEN_HELP}")
    # One name for every try: what a killed fetch left is cleared by the next, under the lock.
    partial = final.with_name(f"{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shutil.copy(_POM, partial / "pom.xml")
    _copy_dependencies(maven, partial)
    jars = {jar.name: jar.stat().st_size for jar in sorted(partial.glob("*.jar"))}
    (partial / _MARKER).write_text(json.dumps({"pom_sha256": _pom_sha256(), "jars": jars}, indent=1), "utf-8")
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)


def _copy_dependencies(maven: str, directory: Path) -> None:
    command = [
        maven,
        "--quiet",
        "--batch-mode",
        "--file",
        str(directory / "pom.xml"),
        "dependency:copy-dependencies",
        "-DincludeScope=runtime",
        f"-DoutputDirectory={directory}",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_MAVEN_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise BrokerError(f"Maven did not fetch Apache Kafka within {_MAVEN_TIMEOUT_S} s: see its network") from None
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise BrokerError(
            f"Maven could not fetch Apache Kafka {kafka_version()} (exit {done.returncode}): "
            f"{lines[0] if lines else 'it said nothing'}"
        )


def _is_complete(directory: Path) -> bool:
    try:
        marker: dict[str, Any] = json.loads((directory / _MARKER).read_text("utf-8"))
        sizes = {name: (directory / name).stat().st_size for name in marker["jars"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(sizes) and sizes == marker["jars"] and marker.get("pom_sha256") == _pom_sha256()


def _pom_sha256() -> str:
    return hashlib.sha256(_POM.read_bytes()).hexdigest()


@contextmanager
def _lock(path: Path) -> Generator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
