"""infra/k8s/headwater.yaml: what Kubernetes' own restricted profile asks, and settings, ports and names that agree.

No schema of Kubernetes is at hand offline, so what matters is checked by structure.
"""

import copy
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from operators import limits
from streams.settings import Settings, load_settings

FILE = Path(__file__).resolve().parents[2] / "infra" / "k8s" / "headwater.yaml"
Document = dict[str, Any]


def documents() -> list[Document]:
    return list(yaml.safe_load_all(FILE.read_text("utf-8")))


def _of(found: list[Document], kind: str) -> Document:
    (one,) = [document for document in found if document["kind"] == kind]
    return one


def _settings(found: list[Document]) -> Settings:
    return load_settings(environ=_of(found, "ConfigMap")["data"])


def _faults(found: list[Document]) -> list[str]:
    """What would let somebody in, or keep the worker from running; empty when all is well."""
    pod = _of(found, "StatefulSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return [*_privileges(pod, container), *_agreement(found, pod, container)]


def _privileges(pod: Document, container: Document) -> list[str]:
    of_pod, of_container = pod.get("securityContext", {}), container.get("securityContext", {})
    wanted = {
        "runs as root": of_pod.get("runAsNonRoot") is True and of_pod.get("runAsUser", 0) > 0,
        "no seccomp profile": of_pod.get("seccompProfile", {}).get("type") == "RuntimeDefault",
        "gains privileges": of_container.get("allowPrivilegeEscalation") is False,
        "a writable root": of_container.get("readOnlyRootFilesystem") is True,
        "keeps capabilities": of_container.get("capabilities", {}).get("drop") == ["ALL"],
        "a token of the cluster": pod.get("automountServiceAccountToken") is False,
        "on the host": not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(),
        "no bound of memory": "memory" in container.get("resources", {}).get("limits", {}),
        "a volume of the host": not any("hostPath" in volume for volume in pod.get("volumes", [])),
    }
    return [fault for fault, holds in wanted.items() if not holds]


def _agreement(found: list[Document], pod: Document, container: Document) -> list[str]:
    settings, data = _settings(found), _of(found, "ConfigMap")["data"]
    stateful, service = _of(found, "StatefulSet"), _of(found, "Service")
    labels = stateful["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    named = {volume["name"] for volume in pod["volumes"]}
    named |= {claim["metadata"]["name"] for claim in stateful["spec"]["volumeClaimTemplates"]}
    probed = {container[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    selectors = [
        stateful["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        _of(found, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        _of(found, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    wanted = {
        "the image of another version": container["image"] == f"headwater:{metadata.version('headwater')}",
        "another port": ports == {"metrics": settings.worker.web_port} and probed == {"metrics"},
        "state is not on the disk of the claim": settings.worker.data_dir in mounts,
        "nothing to write temporary files to": "/tmp" in mounts,  # noqa: S108
        "a mount of no volume": {mount["name"] for mount in container["volumeMounts"]} == named,
        "a selector of nobody": all(selector.items() <= labels.items() for selector in selectors),
        "killed while it ends": pod["terminationGracePeriodSeconds"] > limits.stop_max_s,
        "no login": settings.broker.security_protocol == "SASL_SSL",
        "a secret in the open": not {"HEADWATER_BROKER_SASL_PASSWORD", "HEADWATER_PRIVACY_PSEUDONYM_KEY"} & data.keys(),
        "a secret from nowhere": str(Path(settings.broker.sasl_password_file or "/").parent) in mounts,
        "every source is let in": all(rule.get("from") for rule in _of(found, "NetworkPolicy")["spec"]["ingress"]),
    }
    return [fault for fault, holds in wanted.items() if not holds]


def test_it_is_safe_and_coherent() -> None:
    assert _faults(documents()) == []


def _pod(found: list[Document]) -> Document:
    return _of(found, "StatefulSet")["spec"]["template"]["spec"]


BREAKAGES: dict[str, Callable[[list[Document]], Any]] = {
    "runs as root": lambda found: _pod(found)["securityContext"].update(runAsUser=0),
    "a writable root": lambda found: _pod(found)["containers"][0]["securityContext"].pop("readOnlyRootFilesystem"),
    "keeps capabilities": lambda found: _pod(found)["containers"][0]["securityContext"].pop("capabilities"),
    "gains privileges": lambda found: _pod(found)["containers"][0]["securityContext"].clear(),
    "a token of the cluster": lambda found: _pod(found).pop("automountServiceAccountToken"),
    "on the host": lambda found: _pod(found).update(hostNetwork=True),
    "another port": lambda found: _of(found, "ConfigMap")["data"].update(HEADWATER_WORKER_WEB_PORT="7000"),
    "a selector of nobody": lambda found: _of(found, "Service")["spec"]["selector"].update(app="x"),
    "killed while it ends": lambda found: _pod(found).update(terminationGracePeriodSeconds=10),
    "a secret in the open": lambda found: _of(found, "ConfigMap")["data"].update(
        {"HEADWATER_BROKER_SASL_PASSWORD": "x"}
    ),
    "every source is let in": lambda found: _of(found, "NetworkPolicy")["spec"]["ingress"][0].pop("from"),
}


@pytest.mark.parametrize("fault", BREAKAGES)
def test_a_fault_is_seen(fault: str) -> None:
    found = copy.deepcopy(documents())
    BREAKAGES[fault](found)
    assert fault in _faults(found)
