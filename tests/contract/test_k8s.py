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
_SECRETS = {"HEADWATER_BROKER_SASL_PASSWORD", "HEADWATER_PRIVACY_PSEUDONYM_KEY"}


def documents() -> list[Document]:
    return list(yaml.safe_load_all(FILE.read_text("utf-8")))


def _of(found: list[Document], kind: str) -> Document:
    (one,) = [document for document in found if document["kind"] == kind]
    return one


def _settings(found: list[Document], container: Document) -> Settings:
    own = {variable["name"]: variable["value"] for variable in container.get("env", [])}
    return load_settings(environ={**_of(found, "ConfigMap")["data"], **own})


def _faults(found: list[Document]) -> list[str]:
    """What would let somebody in, or keep the worker or the topics' job from running; empty when all is well."""
    faults: list[str] = []
    for kind in ("StatefulSet", "Job"):
        pod = _pod(found, kind)
        (container,) = pod["containers"]
        faults += [*_privileges(pod, container), *_access(found, pod, container)]
    return [*faults, *_agreement(found), *_topics_job(found)]


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


def _access(found: list[Document], pod: Document, container: Document) -> list[str]:
    settings = _settings(found, container)
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    wanted = {
        "the image of another version": container["image"] == f"headwater:{metadata.version('headwater')}",
        "nothing to write temporary files to": "/tmp" in mounts,  # noqa: S108
        "no login": settings.broker.security_protocol == "SASL_SSL",
        "a secret from nowhere": str(Path(settings.broker.sasl_password_file or "/").parent) in mounts,
        "a secret in the open": not _SECRETS & {variable["name"] for variable in container.get("env", [])},
        "other settings": {"configMapRef": {"name": _of(found, "ConfigMap")["metadata"]["name"]}}
        in container["envFrom"],
        "an account that is not there": pod["serviceAccountName"] == _of(found, "ServiceAccount")["metadata"]["name"],
    }
    return [fault for fault, holds in wanted.items() if not holds]


def _topics_job(found: list[Document]) -> list[str]:
    job, pod, worker = _of(found, "Job"), _pod(found, "Job"), _pod(found)
    (container,) = pod["containers"]
    labels = job["spec"]["template"]["metadata"]["labels"]
    users = [_settings(found, each["containers"][0]).broker.sasl_username for each in (pod, worker)]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    options = [word for word in container["args"] if word.startswith("--")]
    wanted = {
        "no command of ours": container["args"][:2] == ["topics", "create"] and options == ["--json"],
        "topics by the worker's user": users[0] != users[1],
        "workers have the administrator's secret": not _secrets(pod) & _secrets(worker) and bool(_secrets(pod)),
        "taken for a worker": not any(selector.items() <= labels.items() for selector in _of_workers(found)),
        "a job that stays": job["spec"].get("ttlSecondsAfterFinished", -1) >= 0,
        "a job that is not tried again": pod["restartPolicy"] == "OnFailure" and job["spec"]["backoffLimit"] > 0,
        "a mount of no volume of the job": mounted == {volume["name"] for volume in pod["volumes"]},
    }
    return [fault for fault, holds in wanted.items() if not holds]


def _secrets(pod: Document) -> set[str]:
    return {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}


def _of_workers(found: list[Document]) -> list[Document]:
    return [
        _of(found, "StatefulSet")["spec"]["selector"]["matchLabels"],
        _of(found, "Service")["spec"]["selector"],
        _of(found, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
    ]


def _agreement(found: list[Document]) -> list[str]:
    pod = _pod(found)
    (container,) = pod["containers"]
    settings, data = _settings(found, container), _of(found, "ConfigMap")["data"]
    stateful = _of(found, "StatefulSet")
    labels = stateful["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    named = {volume["name"] for volume in pod["volumes"]}
    named |= {claim["metadata"]["name"] for claim in stateful["spec"]["volumeClaimTemplates"]}
    probed = {container[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    selectors = [*_of_workers(found), _of(found, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]]
    wanted = {
        "another port": ports == {"metrics": settings.worker.web_port} and probed == {"metrics"},
        "state is not on the disk of the claim": settings.worker.data_dir in mounts,
        "a mount of no volume": {mount["name"] for mount in container["volumeMounts"]} == named,
        "a selector of nobody": all(selector.items() <= labels.items() for selector in selectors),
        "killed while it ends": pod["terminationGracePeriodSeconds"] > limits.stop_max_s,
        "a secret in the map": not _SECRETS & data.keys(),
        "every source is let in": all(rule.get("from") for rule in _of(found, "NetworkPolicy")["spec"]["ingress"]),
    }
    return [fault for fault, holds in wanted.items() if not holds]


def test_it_is_safe_and_coherent() -> None:
    assert _faults(documents()) == []


def _pod(found: list[Document], kind: str = "StatefulSet") -> Document:
    return _of(found, kind)["spec"]["template"]["spec"]


def _job(found: list[Document]) -> Document:
    return _pod(found, "Job")["containers"][0]


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
    "a secret in the map": lambda found: _of(found, "ConfigMap")["data"].update(
        {"HEADWATER_BROKER_SASL_PASSWORD": "x"}
    ),
    "a secret in the open": lambda found: _job(found)["env"].append(
        {"name": "HEADWATER_BROKER_SASL_PASSWORD", "value": "x"}
    ),
    "a secret from nowhere": lambda found: _job(found)["volumeMounts"].pop(),
    "no login": lambda found: _job(found)["env"].append(
        {"name": "HEADWATER_BROKER_SECURITY_PROTOCOL", "value": "PLAINTEXT"}
    ),
    "no bound of memory": lambda found: _job(found).pop("resources"),
    "no seccomp profile": lambda found: _pod(found, "Job")["securityContext"].pop("seccompProfile"),
    "the image of another version": lambda found: _job(found).update(image="headwater:0.0.9"),
    "other settings": lambda found: _job(found).update(envFrom=[]),
    "no command of ours": lambda found: _job(found).update(args=["topics", "make"]),
    "topics by the worker's user": lambda found: _job(found).update(env=[]),
    "workers have the administrator's secret": lambda found: _pod(found)["volumes"].append(
        _pod(found, "Job")["volumes"][1]
    ),
    "taken for a worker": lambda found: _of(found, "Job")["spec"]["template"]["metadata"]["labels"].update(
        {"app.kubernetes.io/component": "worker"}
    ),
    "a job that stays": lambda found: _of(found, "Job")["spec"].pop("ttlSecondsAfterFinished"),
    "a job that is not tried again": lambda found: _pod(found, "Job").update(restartPolicy="Never"),
    "every source is let in": lambda found: _of(found, "NetworkPolicy")["spec"]["ingress"][0].pop("from"),
}


@pytest.mark.parametrize("fault", BREAKAGES)
def test_a_fault_is_seen(fault: str) -> None:
    found = copy.deepcopy(documents())
    BREAKAGES[fault](found)
    assert fault in _faults(found)
