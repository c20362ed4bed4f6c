"""A real Apache Kafka without Docker: one node in KRaft mode, broker and controller in one JVM.

Every listener is on the loopback interface. The settings are for development, tests and measurements on one
machine: one replica of everything, no automatic topics, no waiting for a group's first members.
"""

import base64
import fcntl
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from infra.broker.errors import BrokerError
from infra.broker.jars import jar_directory, kafka_version
from infra.broker.probe import answers, claim_port
from infra.broker.process import Broker, launch, temporary_directory
from infra.broker.security import (
    USERS,
    client_config,
    is_secured,
    make_credentials,
    scram_arguments,
    secure_properties,
)
from infra.broker.supervisor import tail

__all__ = ["Security", "server_properties", "start_kafka"]

Security = Literal["PLAINTEXT", "SASL_PLAINTEXT", "SSL", "SASL_SSL"]

_JAVA_MAJOR_MIN: Final = 17
_READY_TIMEOUT_S: Final = 90.0
_FORMAT_TIMEOUT_S: Final = 60.0
_GRACE_S: Final = 20.0
_LOGGING: Final = Path(__file__).with_name("log4j2.xml")
_JAVA_HELP: Final = (
    f"install Java {_JAVA_MAJOR_MIN} or newer (Debian: apt-get install openjdk-17-jre-headless; "
    "macOS: brew install openjdk@17) or set JAVA_HOME, or use the embedded broker or Docker"
)


def start_kafka(
    port: int = 0,
    *,
    controller_port: int = 0,
    heap: str = "512m",
    data_dir: Path | None = None,
    security: Security = "PLAINTEXT",
    secure: bool = False,
    properties: Mapping[str, str] | None = None,
    log_file: Path | None = None,
) -> Broker:
    """Start Apache Kafka on ``127.0.0.1:port`` (0: free ports) and wait until clients can use it.

    ``heap``: the JVM's maximum, as ``-Xmx`` takes it. ``data_dir``: kept, and used again with the same cluster
    id by a later start; without one, a temporary directory goes with the broker. ``security``: the protocol of
    the listener that clients use (its name is ``CLIENT``). ``secure``: TLS, users with passwords and an
    authorizer, all set up (see :mod:`infra.broker.security`). ``properties``: server properties over ours.
    Raises :class:`BrokerError` when Java, Maven or a port is missing, or the broker does not come up.
    """
    if not re.fullmatch(r"[1-9]\d*[kKmMgG]", heap):
        raise BrokerError(f"heap {heap!r} is not a size such as 512m or 2g")
    java = _java()
    class_path = str(jar_directory() / "*")
    port = claim_port(port)
    controller_port = claim_port(controller_port, "controller port", taken=port)
    home = _made(data_dir) if data_dir else temporary_directory()
    scratch = None if data_dir else home
    log_file = (log_file or home / "broker.log").absolute()
    security = "SASL_SSL" if secure else security
    with _locked(home) as lock:
        try:
            own = {**_credentials(home, java, f"127.0.0.1:{port}", secure=secure), **(properties or {})}
            settings = {**server_properties(port, controller_port, home / "log", security), **own}
            config = _write_properties(home / "server.properties", settings)
            users = scram_arguments(home) if secure else []
            _format_once(java, class_path, config, Path(settings["log.dirs"]), users, log_file)
        except BaseException:
            if scratch:
                shutil.rmtree(scratch, ignore_errors=True)
            raise
        return launch(
            "kafka",
            [java, f"-Xmx{heap}", *_JVM_FLAGS, "-cp", class_path, "kafka.Kafka", str(config)],
            port=port,
            log_file=log_file,
            data_dir=home,
            remove=scratch,
            environment={},
            answers=lambda: answers(port, security),
            ready_timeout_s=_READY_TIMEOUT_S,
            grace_s=_GRACE_S,
            hold=[lock],
        )


def server_properties(port: int, controller_port: int, log_dir: Path, security: Security) -> dict[str, str]:
    """The properties of a single node whose client listener is ``127.0.0.1:port``."""
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "listeners": f"CLIENT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"CLIENT://127.0.0.1:{port}",
        "listener.security.protocol.map": f"CLIENT:{security},CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "CLIENT",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "log.dirs": str(log_dir),
        "auto.create.topics.enable": "false",
        "default.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        # A broker that was killed may register again only when its old session has run out.
        "broker.session.timeout.ms": "4000",
        "broker.heartbeat.interval.ms": "500",
        "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
        "num.recovery.threads.per.data.dir": "2",
    }


_JVM_FLAGS: Final = (
    # A broker for minutes, on a machine that it shares: the optimizing compiler and a parallel collector would take
    # more of the processor than Kafka itself.
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
    f"-Dlog4j2.configurationFile={_LOGGING}",
)


def _credentials(home: Path, java: str, address: str, *, secure: bool) -> dict[str, str]:
    """The properties of a secured broker, whose credentials are made where there are none."""
    if not secure:
        if is_secured(home):
            raise BrokerError(f"{home} holds a secured broker: start it with --secure, or choose another directory")
        return {}
    make_credentials(home, java)
    for user in USERS:
        client_config(home, user, address)
    return secure_properties(home)


def _made(data_dir: Path) -> Path:
    home = data_dir.absolute()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BrokerError(f"cannot use the data directory {home}: {error.strerror}") from None
    return home


@contextmanager
def _locked(home: Path) -> Generator[int]:
    """Keep a second broker out: Kafka's own lock comes too late, after its controller has written to the log."""
    with (home / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BrokerError(f"another broker uses the data directory {home}: stop it, or choose another") from None
        yield file.fileno()


def _write_properties(path: Path, settings: Mapping[str, str]) -> Path:
    """Java's properties format, readable by the owner only: settings may hold passwords."""
    return _write_private(path, [f"{name}={_escape(value)}\n" for name, value in settings.items()])


def _write_private(path: Path, lines: Iterable[str]) -> Path:
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text("".join(lines), "utf-8")
    return path


def _escape(value: str) -> str:
    """``value`` as ``java.util.Properties.load`` wants it: ASCII, with a backslash before specials."""
    text = value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    units = text.encode("utf-16-be")
    codes = (int.from_bytes(units[i : i + 2]) for i in range(0, len(units), 2))
    escaped = "".join(chr(code) if 32 <= code < 127 else f"\\u{code:04x}" for code in codes)
    return f"\\{escaped}" if escaped.startswith(" ") else escaped


def _format_once(java: str, class_path: str, config: Path, log_dir: Path, users: Sequence[str], log_file: Path) -> None:
    """Give new storage its cluster id and ``users``; storage that has one keeps it."""
    if (log_dir / "meta.properties").is_file():
        return
    arguments = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", f"-Dlog4j2.configurationFile={_LOGGING}"]
    arguments += ["-cp", class_path, "kafka.tools.StorageTool", "format"]
    arguments += [f"--config={config}", f"--cluster-id={_new_cluster_id()}", *users]
    # In a file: a command line is visible to every user of the machine, and these hold passwords.
    file = _write_private(config.with_name("format.args"), [f"{_quoted(each)}\n" for each in arguments])
    try:
        _format([java, f"@{file}"], log_dir, log_file)
    finally:
        file.unlink()


def _quoted(argument: str) -> str:
    """As Java's launcher reads it from an argument file."""
    escaped = argument.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _format(command: Sequence[str], log_dir: Path, log_file: Path) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_FORMAT_TIMEOUT_S,
            check=False,
        )
        status, said = done.returncode, done.stdout
    except subprocess.TimeoutExpired:
        status, said = -1, b""
    if status:
        # Only then: it prints what passwords are checked against.
        with log_file.open("ab") as log:
            log.write(said)
        raise BrokerError(f"could not format storage in {log_dir}; the log ends:{tail(log_file)}")


def _new_cluster_id() -> str:
    """A random UUID in 22 characters of URL-safe base64, as Kafka writes them; never with a leading dash."""
    while True:
        name = base64.urlsafe_b64encode(uuid.uuid4().bytes)[:22].decode()
        if not name.startswith("-"):
            return name


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin") if home else None)
    if java is None:
        where = f"JAVA_HOME={home} has no bin/java" if home else "java is not on PATH"
        raise BrokerError(f"Apache Kafka {kafka_version()} needs Java, and {where}: {_JAVA_HELP}")
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False).stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BrokerError(f"{java} does not run ({error}): {_JAVA_HELP}") from None
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    if found is None or int(found[1]) < _JAVA_MAJOR_MIN:
        has = f"is Java {found[1]}" if found else "does not say its version"
        raise BrokerError(
            f"Apache Kafka {kafka_version()} needs Java {_JAVA_MAJOR_MIN}, and {java} {has}: {_JAVA_HELP}"
        )
    return java
