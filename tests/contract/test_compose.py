"""docker-compose.yml and its Dockerfile: valid by the compose specification, and safe and coherent beyond it."""

import copy
import json
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from infra.broker import jars, kafka
from operators import limits
from streams.settings import SettingsError, load_settings

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "infra" / "docker" / "Dockerfile"
Document = dict[str, Any]


@pytest.fixture(scope="module")
def document() -> Document:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))


@pytest.fixture(scope="module")
def schema() -> Document:
    """The compose specification's JSON schema; the development dependency ``check-jsonschema`` carries it.

    Read as data: importing that package asks for another click than Faust does.
    """
    file = metadata.distribution("check-jsonschema").locate_file(
        "check_jsonschema/builtin_schemas/vendor/compose-spec.json"
    )
    return json.loads(Path(str(file)).read_text("utf-8"))


def _violations(document: Document, schema: Document) -> list[str]:
    validator: Any = jsonschema.Draft202012Validator(schema)
    return [str(error) for error in validator.iter_errors(document)]


def _services(document: Document) -> dict[str, Document]:
    return document["services"]


def _ours(document: Document) -> dict[str, Document]:
    return {name: service for name, service in _services(document).items() if "build" in service}


def _listeners(text: str) -> dict[str, str]:
    return dict(each.split("://") for each in text.split(","))


def _faults(document: Document) -> list[str]:
    """What the schema cannot see; empty when the file is as it should be."""
    found = [*_image_faults(document), *_dependency_faults(document), *_listener_faults(document)]
    for name, service in _services(document).items():
        found += [f"{name}: port {port} is not on loopback" for port in service.get("ports", []) if not _local(port)]
        for volume in service.get("volumes", []):
            if volume.split(":")[0] not in document.get("volumes", {}):
                found.append(f"{name}: volume {volume} is not declared")
        if "ALL" not in service.get("cap_drop", []) or "no-new-privileges:true" not in service.get("security_opt", []):
            found.append(f"{name}: privileges are not dropped")
    for name, service in _ours(document).items():
        if service.get("user", "0").partition(":")[0] in {"0", "root"}:
            found.append(f"{name}: runs as root")
        if not service.get("read_only") or "/tmp" not in service.get("tmpfs", []):  # noqa: S108
            found.append(f"{name}: the root file system is writable, or there is no /tmp")
        found += _setting_faults(name, service)
    return found


def _local(port: object) -> bool:
    return isinstance(port, str) and port.startswith("127.0.0.1:")


def _image_faults(document: Document) -> list[str]:
    return [
        f"{name}: image {service.get('image')} is not pinned"
        for name, service in _services(document).items()
        if not re.fullmatch(r"[a-z/-]+:\d+\.\d+\.\d+", service.get("image", ""))
    ]


def _dependency_faults(document: Document) -> list[str]:
    services, found = _services(document), list[str]()
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            if needed not in services:
                found.append(f"{name}: depends on {needed}, which does not exist")
            elif how["condition"] == "service_healthy" and "test" not in services[needed].get("healthcheck", {}):
                found.append(f"{name}: waits for the health of {needed}, which has no check")
            elif how["condition"] == "service_completed_successfully" and services[needed]["restart"] != "no":
                found.append(f"{name}: waits for the end of {needed}, which is started again")
    return found


def _listener_faults(document: Document) -> list[str]:
    broker = _services(document)["kafka"]
    settings = broker["environment"]
    bound, told = _listeners(settings["KAFKA_LISTENERS"]), _listeners(settings["KAFKA_ADVERTISED_LISTENERS"])
    protocols = dict(each.split(":") for each in settings["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    found: list[str] = []
    if set(protocols) != set(bound) or set(told) != set(bound) - {settings["KAFKA_CONTROLLER_LISTENER_NAMES"]}:
        found.append("kafka: listeners, advertised listeners and the protocol map disagree")
    found += [
        f"kafka: {name} listens on {bound.get(name)} and is advertised as {told[name]}"
        for name in told
        if bound.get(name, "").rpartition(":")[2] != told[name].rpartition(":")[2]
    ]
    published = {port.rpartition(":")[0] for port in broker["ports"]}
    if told.get("HOST") not in published:
        found.append(f"kafka: programs on the host are sent to {told.get('HOST')}, published is {published}")
    if settings["KAFKA_CONTROLLER_QUORUM_VOTERS"] != f"1@kafka{bound['CONTROLLER']}":
        found.append("kafka: the controller is not where its voters are")
    found += [
        f"{name}: HEADWATER_BROKER is not the internal listener {told.get('INTERNAL')}"
        for name, service in _ours(document).items()
        if service["environment"].get("HEADWATER_BROKER") != told.get("INTERNAL")
    ]
    return found


def _setting_faults(name: str, service: Document) -> list[str]:
    """The settings refuse a variable that is none of theirs, and a state directory has to outlast the container."""
    environment: dict[str, str] = service["environment"]
    found: list[str] = []
    try:
        load_settings(environ=environment, overrides={})
    except SettingsError as error:
        found.append(f"{name}: {error}")
    state = environment.get("HEADWATER_WORKER_DATA_DIR")
    if service["command"] == ["worker"] and f"worker-state:{state}" not in service.get("volumes", []):
        found.append(f"{name}: its state directory {state} is on no volume")
    return found


def test_it_follows_the_compose_specification(document: Document, schema: Document) -> None:
    assert _violations(document, schema) == []


def test_it_is_safe_and_coherent(document: Document) -> None:
    assert _faults(document) == []


def _set(*path: str, to: object) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("services", "worker", "comand", to=["worker"]), "comand"),
        (_set("services", "kafka", "ports", to="9092"), "is not of type 'array'"),
        (_set("services", "worker", "depends_on", "kafka", "condition", to="healthy"), "is not valid under any"),
        (_set("servces", to={}), "servces"),
    ],
)
def test_the_specification_catches(
    document: Document, schema: Document, change: Callable[[Document], None], message: str
) -> None:
    changed = copy.deepcopy(document)
    change(changed)
    assert message in " ".join(_violations(changed, schema))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (_set("services", "kafka", "image", to="apache/kafka:latest"), "is not pinned"),
        (_set("services", "kafka", "ports", to=["9092:9092"]), "is not on loopback"),
        (_set("services", "worker", "ports", to=["0.0.0.0:6066:6066"]), "is not on loopback"),
        (_set("services", "worker", "user", to="root"), "runs as root"),
        (_set("services", "topics", "read_only", to=False), "writable"),
        (_set("services", "worker", "volumes", to=[]), "is on no volume"),
        (_set("services", "worker", "volumes", to=["elsewhere:/data"]), "is not declared"),
        (_set("services", "worker", "cap_drop", to=[]), "privileges"),
        (_set("services", "worker", "depends_on", "zookeeper", to={}), "does not exist"),
        (_set("services", "kafka", "healthcheck", to={}), "has no check"),
        (_set("services", "topics", "restart", to="always"), "started again"),
        (_set("services", "worker", "environment", "HEADWATER_BROKER", to="localhost:9092"), "internal listener"),
        (_set("services", "worker", "environment", "HEADWATER_WORKER_DATADIR", to="/x"), "is no setting"),
        (
            _set(
                "services", "kafka", "environment", "KAFKA_ADVERTISED_LISTENERS", to="INTERNAL://kafka:9,HOST://h:9092"
            ),
            "is advertised as",
        ),
        (_set("services", "kafka", "environment", "KAFKA_LISTENERS", to="CONTROLLER://:29093"), "disagree"),
        (_set("services", "kafka", "environment", "KAFKA_CONTROLLER_QUORUM_VOTERS", to="1@kafka:1"), "voters"),
    ],
)
def test_the_checks_catch(document: Document, change: Callable[[Document], None], fault: str) -> None:
    changed = copy.deepcopy(document)
    change(changed)
    assert any(fault in each for each in _faults(changed)), _faults(changed)


def test_the_broker_is_the_one_that_is_tested(document: Document) -> None:
    broker = _services(document)["kafka"]
    assert broker["image"] == f"apache/kafka:{jars.kafka_version()}"
    known = kafka.server_properties(1, 2, Path("/data"), "PLAINTEXT")
    for variable, value in broker["environment"].items():
        if variable != "KAFKA_HEAP_OPTS":
            name = variable.removeprefix("KAFKA_").lower().replace("_", ".")
            assert name in known, f"{variable} is no property of the broker that the tests run on"
            if name.endswith(("factor", "isr", "enable", "delay.ms", "id", "roles")):
                assert str(value) == known[name], variable


def test_a_worker_has_time_to_drain(document: Document) -> None:
    grace = _services(document)["worker"]["stop_grace_period"]
    assert grace.endswith("s")
    assert float(grace[:-1]) > limits.stop_max_s


def test_the_image(document: Document) -> None:
    text = DOCKERFILE.read_text("utf-8")
    stages = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert set(stages) == {"python:3.12-slim-bookworm"}
    final = text.rpartition("\nFROM ")[2]
    worker = _services(document)["worker"]
    assert f"USER {worker['user']}" in final
    assert re.search(r"^HEALTHCHECK ", final, re.MULTILINE)
    assert "pip install" not in final
    port = worker["environment"]["HEADWATER_WORKER_WEB_PORT"]
    assert f"127.0.0.1:{port}/health" in final
    assert f"VOLUME {worker['environment']['HEADWATER_WORKER_DATA_DIR']}" in final
    assert "--constraint constraints.txt" in text


def test_everything_the_image_is_built_from_is_let_in(document: Document) -> None:
    ignore = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    copied = {
        source.removeprefix("./")
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE.read_text("utf-8"), re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert "*" in ignore
    assert {f"!{name}" for name in copied} == {line for line in ignore if line.startswith("!")}
    for service in _ours(document).values():
        assert (ROOT / service["build"]["dockerfile"]) == DOCKERFILE
