"""What Apache Kafka is started from: the jar cache, Java, and the server's properties."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import broker
from infra.broker import jars, kafka

# -- the jar cache, with a stand-in for Maven

MAVEN = """#!/bin/sh
echo called >> "$COUNT"
for word; do case $word in -DoutputDirectory=*) out=${word#*=};; esac; done
[ -n "$MAVEN_FAILS" ] && { echo "[ERROR] repository is on fire"; echo half > "$out/half.jar"; exit 1; }
echo content > "$out/kafka.jar"
sleep 0.2
echo content > "$out/scala.jar"
"""


@pytest.fixture
def maven_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """An empty cache and a fake mvn on PATH; gives the number of its calls."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "mvn").write_text(MAVEN)
    (tmp_path / "bin" / "mvn").chmod(0o755)
    count = tmp_path / "count"
    monkeypatch.setenv("COUNT", str(count))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return lambda: len(count.read_text().splitlines()) if count.exists() else 0


def test_the_second_start_needs_no_maven(maven_calls: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    directory = jars.jar_directory()
    assert directory == jars.cache_directory() / f"kafka-{jars.kafka_version()}"
    assert {jar.name for jar in directory.glob("*.jar")} == {"kafka.jar", "scala.jar"}
    monkeypatch.setenv("PATH", "/nonexistent")
    assert jars.jar_directory() == directory
    assert maven_calls() == 1


def test_a_damaged_cache_is_fetched_again(maven_calls: Callable[[], int]) -> None:
    directory = jars.jar_directory()
    marker = (directory / "complete.json").read_text()
    for name, damage in {"kafka.jar": "short", "scala.jar": None, "complete.json": "{"}.items():
        calls = maven_calls()
        (directory / name).unlink()
        if damage is not None:
            (directory / name).write_text(damage)
        jars.jar_directory()
        assert maven_calls() == calls + 1
        assert (directory / "kafka.jar").read_text() == "content\n"
        assert (directory / "complete.json").read_text() == marker


def test_another_pom_is_fetched_anew(
    maven_calls: Callable[[], int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    jars.jar_directory()
    pom = tmp_path / "pom.xml"
    pom.write_text(jars._POM.read_text("utf-8") + "<!-- one more jar -->", "utf-8")
    monkeypatch.setattr(jars, "_POM", pom)
    jars.jar_directory()
    assert maven_calls() == 2


def test_two_starts_at_once_fetch_once(maven_calls: Callable[[], int]) -> None:
    script = [sys.executable, "-c", "from infra.broker import jars; print(jars.jar_directory())"]
    starts = [subprocess.Popen(script, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {start.communicate(timeout=30)[0] for start in starts}
    assert said == {f"{jars.jar_directory()}\n"}
    assert maven_calls() == 1


def test_a_failed_fetch_is_an_error_and_not_a_cache(
    maven_calls: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAVEN_FAILS", "1")
    with pytest.raises(broker.BrokerError, match=r"exit 1\): \[ERROR\] repository is on fire"):
        jars.jar_directory()
    monkeypatch.delenv("MAVEN_FAILS")
    assert not (jars.jar_directory() / "half.jar").exists()
    assert maven_calls() == 2


def test_no_maven(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(broker.BrokerError, match=r"needs Maven.*apt-get install maven"):
        jars.jar_directory()


# -- Java and the server's properties


def test_no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(broker.BrokerError, match="needs Java, and java is not on PATH: install Java 17"):
        broker.start("kafka")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(broker.BrokerError, match="has no bin/java"):
        broker.start("kafka")


@pytest.mark.parametrize(
    ("says", "fault"),
    [('openjdk version "11.0.2"', "is Java 11"), ('java version "1.8.0_292"', "is Java 8"), ("?", "does not say")],
)
def test_old_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, says: str, fault: str) -> None:
    (tmp_path / "bin").mkdir()
    java = tmp_path / "bin" / "java"
    java.write_text(f"#!/bin/sh\necho '{says}' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(broker.BrokerError, match=f"needs Java 17, and {java} {fault}"):
        broker.start("kafka")


@pytest.mark.parametrize("heap", ["", "512", "0m", "1.5g", "512m -XX:Evil"])
def test_heap_is_checked(heap: str) -> None:
    with pytest.raises(broker.BrokerError, match="is not a size"):
        broker.start("kafka", heap=heap)


def test_the_embedded_broker_has_no_kafka_options(tmp_path: Path) -> None:
    with pytest.raises(broker.BrokerError, match="use --kind kafka"):
        broker.start("embedded", data_dir=tmp_path)


def test_every_listener_is_on_the_loopback_interface() -> None:
    settings = kafka.server_properties(1111, 2222, Path("/data"), "SASL_SSL")
    addresses = ",".join(settings[name] for name in ("listeners", "advertised.listeners"))
    assert addresses == "CLIENT://127.0.0.1:1111,CONTROLLER://127.0.0.1:2222,CLIENT://127.0.0.1:1111"
    assert "CLIENT:SASL_SSL" in settings["listener.security.protocol.map"]
    replication = {name: value for name, value in settings.items() if "replication.factor" in name}
    assert len(replication) == 4
    assert set(replication.values()) == {"1"}


def _java_unescaped(text: str) -> str:
    """What ``java.util.Properties.load`` makes of the value part of a line, by its documentation."""
    text = text.lstrip(" \t\f")
    units, at = bytearray(), 0
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 1
            if text[at] == "u":
                units += bytes.fromhex(text[at + 1 : at + 5])
                at += 5
                continue
            char = {"n": "\n", "r": "\r", "t": "\t", "f": "\f"}.get(text[at], text[at])
        units += char.encode("utf-16-be")
        at += 1
    return units.decode("utf-16-be")


@given(st.text(st.characters(codec="utf-8")))
def test_property_values_survive(value: str) -> None:
    escaped = kafka._escape(value)
    assert escaped.isascii()
    assert "\n" not in escaped
    assert _java_unescaped(escaped) == value


def test_properties_are_for_the_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "server.properties"
    path.write_text("older and readable by all")
    path.chmod(0o644)
    kafka._write_properties(path, {"a": "1", "sasl.jaas.config": 'x password="ü";'})
    assert path.read_text() == 'a=1\nsasl.jaas.config=x password="\\u00fc";\n'
    assert path.stat().st_mode & 0o777 == 0o600


def test_cluster_ids_can_be_arguments() -> None:
    ids = [kafka._new_cluster_id() for _ in range(500)]
    assert len(set(ids)) == 500
    assert all(len(each) == 22 and not each.startswith("-") for each in ids)
