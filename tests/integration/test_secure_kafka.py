"""A real Apache Kafka with TLS, SASL/SCRAM-SHA-512 and ACLs: what each role is allowed is enough, and is needed."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kafka.admin as kafka_admin
import pytest

from infra import broker
from infra.broker.security import USERS
from streams.acls import ROLES, Grant, grants
from streams.chaos.readback import records_of
from streams.clients.acls import allow, missing
from streams.clients.inspect import inspect
from streams.clients.kafka import admin
from streams.clients.produce import produce
from streams.clients.topics import create_topics
from streams.settings import Settings, load_settings
from tests.last_words import the_only_error

pytestmark = pytest.mark.kafka

PARTITIONS = 2
PEOPLE = [f"user-{n}" for n in range(7)]
COMMAND = "import sys; from streams.cli import main; main()"
_kafka: Any = kafka_admin


class Guarded:
    """A secured broker with its topics, and the means to change what the worker may do."""

    def __init__(self, running: broker.Broker, home: Path) -> None:
        assert running.data_dir is not None
        self.clients, self.secrets = running.data_dir / "clients", running.data_dir / "secrets"
        self.address, self.log_file = running.address, running.log_file
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")},
            "HEADWATER_TOPICS_PARTITIONS": str(PARTITIONS),
            "HEADWATER_WORKER_DATA_DIR": str(home / "state"),
            "HEADWATER_WORKER_WEB_PORT": "0",
            "HEADWATER_WORKER_PROVIDER": "cpu",
            "HEADWATER_WORKER_COMMIT_INTERVAL_S": "0.2",
        }
        self.produced = self.replayed = 0
        create_topics(self.settings("admin"))
        for role in ROLES:
            allow(self.settings("admin").broker, f"User:{role}", grants(self.settings("admin"), role))
        self.until_allowed()

    def settings(self, user: str) -> Settings:
        return load_settings(str(self.clients / f"{user}.toml"), environ=self.environment)

    def until_allowed(self) -> None:
        """An ACL counts a moment after the broker has taken it."""
        wait_for(lambda: not missing(self.settings("worker"), "worker"))

    def run(
        self, user: str, *arguments: str, given: str = "", **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self._command(user, *arguments),
            input=given,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            env={**self.environment, **environment},
        )

    def start_worker(self, log_file: Path, **environment: str) -> "subprocess.Popen[bytes]":
        with log_file.open("wb") as log:
            return subprocess.Popen(
                self._command("worker", "worker"), stdout=log, stderr=log, env={**self.environment, **environment}
            )

    def _command(self, user: str, *arguments: str) -> list[str]:
        return [sys.executable, "-c", COMMAND, "--config", str(self.clients / f"{user}.toml"), *arguments]

    def revoke(self, grant: Grant, principal: str = "User:worker") -> None:
        pattern = _kafka.ResourcePatternFilter(
            _kafka.ResourceType[grant.resource.upper()], grant.name, _kafka.ACLResourcePatternType.ANY
        )
        allowed = _kafka.ACLPermissionType.ALLOW
        operation = _kafka.ACLOperation[grant.operation.upper()]
        asked = _kafka.ACLFilter(
            principal=principal, host="*", operation=operation, permission_type=allowed, resource_pattern=pattern
        )
        with admin(self.settings("admin").broker) as client:
            client_of_acls: Any = client
            ((_, removed, _),) = client_of_acls.delete_acls([asked])
        assert len(removed) == 1

    def grant(self, grant: Grant) -> None:
        allow(self.settings("admin").broker, "User:worker", [grant])
        self.until_allowed()

    def produce(self) -> None:
        """One purchase of everybody, and a record that is none."""
        lines = [
            json.dumps({"user_id": user, "item_id": "1082185", "timestamp": 1_767_225_600_000 + self.produced}).encode()
            for user in PEOPLE
        ]
        settings = self.settings("admin")
        done = produce(settings, lines, event_type="purchase", encoding="json", raw=False, report=print)
        assert done.delivered == len(PEOPLE)
        assert (
            produce(settings, [b"no event"], event_type="view", encoding="json", raw=True, report=print).delivered == 1
        )
        self.produced += 1

    def everything_is_committed(self) -> bool:
        """Of the purchases, on every partition that has some."""
        settings = self.settings("admin")
        group = settings.worker.app_id
        with admin(settings.broker) as client:
            offsets = client.list_group_offsets(group).get(group, {})
        return sum(found.offset for at, found in offsets.items() if at.topic == "purchase") == (
            self.produced * len(PEOPLE) + self.replayed
        )


def wait_for(what: Any, worker: Any = None, log_file: Path | None = None, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        said = log_file.read_text() if log_file else ""
        assert worker is None or worker.poll() is None, said
        assert time.monotonic() < deadline, f"it did not come to be {said}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    home = tmp_path_factory.mktemp("guarded")
    with broker.start("kafka", secure=True, data_dir=home / "broker") as running:
        yield Guarded(running, home)


def one_line(ended: "subprocess.CompletedProcess[str]") -> str:
    """What a failed command says: one line, a status, and no trace."""
    lines = ended.stderr.strip().splitlines()
    assert ended.returncode == 1, ended.stderr
    assert len(lines) == 1, ended.stderr
    return lines[0]


def test_each_role_can_do_its_work_with_what_it_is_allowed(guarded: Guarded, tmp_path: Path) -> None:
    with guarded.start_worker(tmp_path / "worker.log") as worker:
        try:
            line = '{"user_id": "ada", "item_id": "1082185", "timestamp": 1767225600000}\n'
            sent = guarded.run("producer", "produce", "--type", "click", given=line)
            assert sent.returncode == 0, sent.stderr
            watched = guarded.run("reader", "watch", "--from-beginning", "--count", "1", "--timeout", "60", "--json")
            assert watched.returncode == 0, watched.stderr + (tmp_path / "worker.log").read_text()
            assert json.loads(watched.stdout)["user_id"] == "ada"
            inspected = guarded.run("reader", "inspect", "ada", "--json")
            assert inspected.returncode == 0, inspected.stderr
            assert json.loads(inspected.stdout)["state"]["events_count"] == 1
            erased = guarded.run("eraser", "erase", "ada", "--json")
            assert erased.returncode == 0, erased.stderr
            assert json.loads(erased.stdout)["receipt"]["erased_until"] > 0
            replayed = guarded.run("producer", "replay", "complete-journey", "--limit", "20", "--no-catalog", "--json")
            assert replayed.returncode == 0, replayed.stderr
            guarded.replayed = json.loads(replayed.stdout)["sent"]
            checked = guarded.run("worker", "doctor", "--json")
            findings = {check["name"]: check for check in json.loads(checked.stdout)["checks"]}
            for name in ("broker", "topics", "partitioner", "lag"):
                assert findings[name]["status"] == "ok", findings[name]
        finally:
            worker.terminate()
        assert worker.wait(30) == 0, (tmp_path / "worker.log").read_text()


CHANGELOG = "headwater-users-changelog"
RIGHTS = [
    # The changelog is read at a start only, and receipts are rare: the next test.
    pytest.param(grant, id=f"{grant.operation}-{grant.name}", marks=[] if quick else [pytest.mark.slow])
    for grant, quick in [
        (Grant("read", "topic", "view"), False),
        (Grant("read", "topic", "click"), False),
        (Grant("read", "topic", "purchase"), True),
        (Grant("read", "topic", "erase"), False),
        (Grant("read", "topic", "catalog"), False),
        (Grant("write", "topic", "recommendations"), True),
        (Grant("write", "topic", "dead-letter"), False),
        (Grant("write", "topic", CHANGELOG), False),
        (Grant("read", "group", "headwater"), True),
    ]
]


AT_THE_START = [
    Grant("read", "topic", CHANGELOG),
    Grant("write", "topic", "dead-letter"),
    Grant("write", "topic", "erasure-receipts"),
]


def test_every_right_of_a_worker_is_taken_away_below() -> None:
    tested = {parameter.values[0] for parameter in RIGHTS} | set(AT_THE_START)
    assert tested == set(grants(load_settings(environ={}), "worker"))


@pytest.mark.parametrize("grant", RIGHTS)
def test_a_worker_that_loses_a_right_ends_with_one_line_and_loses_nothing(
    guarded: Guarded, grant: Grant, tmp_path: Path
) -> None:
    log_file = tmp_path / "worker.log"
    with guarded.start_worker(log_file) as worker:
        try:
            guarded.produce()
            wait_for(guarded.everything_is_committed, worker, log_file)
            guarded.revoke(grant)
            guarded.produce()
            assert worker.wait(60) == 1, grant
        finally:
            worker.kill()
            guarded.grant(grant)
    check_last_words(log_file, grant)
    with guarded.start_worker(log_file) as worker:
        try:
            wait_for(guarded.everything_is_committed, worker, log_file)
        finally:
            worker.terminate()
    assert [_events_of(guarded, user) for user in PEOPLE] == [guarded.produced] * len(PEOPLE)


def check_last_words(log_file: Path, grant: Grant) -> None:
    """One line, which names what is missing and says what to do."""
    remedy = "headwater topics acls worker --apply"
    the_only_error(log_file.read_bytes(), grant.name, "user 'worker'", remedy, beside="GroupCoordinatorNotAvailable")


def _events_of(guarded: Guarded, user: str) -> int:
    return inspect(guarded.settings("reader"), user)["state"]["events_count"]


EXACTLY_ONCE = {"HEADWATER_WORKER_DELIVERY": "exactly_once"}
TRANSACTIONS = Grant("write", "transactional_id", "headwater-transaction-")


@pytest.mark.timeout(280)
def test_exactly_once_takes_the_right_to_its_transactional_ids(guarded: Guarded, tmp_path: Path) -> None:
    log_file = tmp_path / "worker.log"
    refused = guarded.start_worker(log_file, **EXACTLY_ONCE)
    try:
        assert refused.wait(60) == 1
    finally:
        refused.kill()
    check_last_words(log_file, TRANSACTIONS)
    applied = guarded.run("admin", "topics", "acls", "worker", "--apply", "--json", **EXACTLY_ONCE)
    assert applied.returncode == 0, applied.stderr
    assert TRANSACTIONS._asdict() in json.loads(applied.stdout)["acls"]
    time.sleep(1)  # of transactional ids no broker tells whether they are allowed by now
    before = list_causes(guarded)
    for _ in range(2):  # the second fences a worker that was killed, whose id is another
        with guarded.start_worker(log_file, **EXACTLY_ONCE) as worker:
            try:
                guarded.produce()
                wait_for(guarded.everything_is_committed, worker, log_file)
                guarded.produce()
            finally:
                worker.kill()
    with guarded.start_worker(log_file, **EXACTLY_ONCE) as worker:
        try:
            wait_for(guarded.everything_is_committed, worker, log_file)
            erased = guarded.run("eraser", "erase", "eve", "--json")
            assert erased.returncode == 0, erased.stderr
            guarded.revoke(TRANSACTIONS)
            guarded.produce()
            assert worker.wait(60) == 1
        finally:
            worker.kill()
    check_last_words(log_file, TRANSACTIONS)
    allow(guarded.settings("admin").broker, "User:worker", [TRANSACTIONS])
    with guarded.start_worker(log_file, **EXACTLY_ONCE) as worker:
        try:
            wait_for(guarded.everything_is_committed, worker, log_file)
        finally:
            worker.terminate()
        assert worker.wait(30) == 0, log_file.read_text()
    assert [_events_of(guarded, user) for user in PEOPLE] == [guarded.produced] * len(PEOPLE)
    causes = list_causes(guarded) - before
    assert causes.total() == 5 * len(PEOPLE)
    assert set(causes.values()) == {1}


def list_causes(guarded: Guarded) -> Counter[tuple[str, int, int]]:
    """How many committed lists name each event."""
    settings = guarded.settings("reader")
    records = records_of(settings, settings.topics.recommendations)
    lists = [json.loads(record.value) for record in records if record.value is not None]
    return Counter((at["topic"], at["partition"], at["offset"]) for each in lists for at in each["caused_by"])


@pytest.mark.parametrize("grant", AT_THE_START, ids=lambda grant: grant.name)
def test_a_worker_does_not_start_without_a_right(guarded: Guarded, grant: Grant) -> None:
    guarded.revoke(grant)
    try:
        said = one_line(guarded.run("worker", "worker"))
    finally:
        guarded.grant(grant)
    assert f"user 'worker' is not allowed to: {grant.operation} topic {grant.name};" in said
    assert "headwater topics acls worker --apply" in said


@pytest.mark.parametrize(
    ("user", "arguments"),
    [
        ("reader", ["produce", "--type", "view"]),
        ("reader", ["replay", "complete-journey", "--limit", "5", "--no-catalog"]),
        ("producer", ["watch", "--from-beginning", "--count", "1", "--timeout", "10"]),
        ("producer", ["inspect", "ada"]),
        ("worker", ["topics", "acls", "reader", "--apply"]),
    ],
    ids=["produce", "replay", "watch", "inspect", "acls"],
)
def test_a_role_cannot_do_the_work_of_another(guarded: Guarded, user: str, arguments: list[str]) -> None:
    line = '{"user_id": "eve", "item_id": "1082185", "timestamp": 1767225600000}\n'
    said = one_line(guarded.run(user, *arguments, given=line))
    assert "unexpected" not in said
    assert any(word in said for word in ("allow", "rights", "right to")), said


def test_a_wrong_password(guarded: Guarded, tmp_path: Path) -> None:
    wrong = {"HEADWATER_BROKER_SASL_PASSWORD": "not-the-password"}
    for arguments in (["worker"], ["produce", "--type", "view"], ["inspect", "ada"]):
        said = one_line(guarded.run("worker", *arguments, **wrong))
        assert "refuses the login of 'worker' by SCRAM-SHA-512" in said
        assert "HEADWATER_BROKER_SASL_USERNAME" in said
        assert "not-the-password" not in said


def test_a_wrong_authority(guarded: Guarded, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=x",
        "-days",
        "2",
    ]
    subprocess.run([*command, "-keyout", os.devnull, "-out", str(other)], check=True, capture_output=True)
    for arguments in (["worker"], ["produce", "--type", "view"]):
        said = one_line(guarded.run("worker", *arguments, HEADWATER_BROKER_TLS_CA_FILE=str(other)))
        assert f"{guarded.address} shows a certificate that is not trusted" in said
        assert "broker.tls_ca_file" in said


def test_another_protocol_than_that_of_the_listener(guarded: Guarded) -> None:
    said = one_line(guarded.run("worker", "topics", "list", HEADWATER_BROKER_SECURITY_PROTOCOL="PLAINTEXT"))
    assert guarded.address in said
    assert "broker.security_protocol" in said


def test_what_the_broker_keeps_is_private_and_its_log_holds_no_password(guarded: Guarded) -> None:
    passwords = [(guarded.secrets / user).read_text() for user in USERS]
    for file in guarded.secrets.iterdir():
        assert file.name == "ca.pem" or file.stat().st_mode & 0o077 == 0, file
    assert guarded.secrets.stat().st_mode & 0o077 == 0
    assert not (guarded.secrets.parent / "format.args").exists()
    log = guarded.log_file.read_text()
    assert not [password for password in passwords if password in log]
    assert "storedKey" not in log
    assert (guarded.secrets.parent / "server.properties").stat().st_mode & 0o077 == 0
