"""The tree holds no way for data to become code, and nothing is installed that is not pinned."""

import ast
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TREES = ("operators", "models", "streams", "infra")
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "jsonpickle"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}
FORBIDDEN_CALLS |= {"pandas.read_pickle", "pd.read_pickle"}
TLS_UNCHECKED = {"infra/broker/probe.py"}
"""Looks at a handshake and sends nothing; see there."""
INSTALLERS = {"pip", "setuptools", "wheel", "headwater"}


def _name(node: ast.expr) -> str:
    """Dotted name of what is called, as far as it is one."""
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _keywords(call: ast.Call) -> dict[str | None, object]:
    return {word.arg: word.value.value if isinstance(word.value, ast.Constant) else ... for word in call.keywords}


def faults(source: str, path: str) -> Iterator[str]:
    """What must not be in our code, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
            for module in {name.partition(".")[0] for name in named} & FORBIDDEN_MODULES:
                yield f"{path}:{node.lineno}: imports {module}"
        elif isinstance(node, ast.Call):
            name, keywords = _name(node.func), _keywords(node)
            if name in FORBIDDEN_CALLS:
                yield f"{path}:{node.lineno}: calls {name}"
            if name.endswith("torch.load") and keywords.get("weights_only") is not True:
                yield f"{path}:{node.lineno}: torch.load without weights_only=True"
            if name in {"np.load", "numpy.load", "np.save", "numpy.save"} and keywords.get("allow_pickle") is not False:
                yield f"{path}:{node.lineno}: {name} without allow_pickle=False"
            if keywords.get("shell") is True:
                yield f"{path}:{node.lineno}: a shell"
        elif isinstance(node, ast.Attribute) and node.attr == "CERT_NONE" and path not in TLS_UNCHECKED:
            yield f"{path}:{node.lineno}: certificates are not checked"


def test_no_data_becomes_code() -> None:
    files = [path for tree in TREES for path in sorted((ROOT / tree).rglob("*.py"))]
    assert len(files) > 50
    found = [fault for path in files for fault in faults(path.read_text("utf-8"), str(path.relative_to(ROOT)))]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load(p)",
        "import torch\ntorch.load(p, weights_only=False)",
        "np.load(p)",
        "np.load(p, allow_pickle=True)",
        "yaml.load(t)",
        "eval(t)",
        "subprocess.run(c, shell=True)",
        "context.verify_mode = ssl.CERT_NONE",
    ],
)
def test_each_way_is_seen(source: str) -> None:
    assert len(list(faults(source, "x.py"))) == 1


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line.partition("==") for line in lines if line and not line.startswith("#")]
    assert all(separator and version for _, separator, version in pins)
    return {_normal(name): version for name, _, version in pins}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _needed() -> dict[str, str]:
    """Every package that ours brings, its own extras included, as far as it is installed here; with its version."""
    found: dict[str, str] = {}
    waiting = ["headwater"]
    while waiting:
        parent = waiting.pop()
        for requirement in metadata.requires(parent) or ():
            name = _normal(re.split(r"[\s\[;<>=!~(]", requirement, maxsplit=1)[0])
            if name in found or ("extra ==" in requirement and parent != "headwater"):
                continue
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
            waiting.append(name)
    return found


def test_every_package_that_is_brought_is_pinned_to_what_is_installed() -> None:
    pins, needed = _pins(), _needed()
    assert len(needed) > 40
    loose = {name: version for name, version in needed.items() if name not in INSTALLERS and pins.get(name) != version}
    assert loose == {}, "add them to constraints.txt, or install what it names"
