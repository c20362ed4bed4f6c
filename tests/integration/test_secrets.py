"""No command prints a secret: not when it fails, not with HEADWATER_DEBUG=1, not in its help or its log."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.broker.probe import claim_port

CANARY = "canary-9d1f6c52e7a84b03"
COMMAND = "import sys; from streams.cli import main; main()"
COMMANDS = [
    ["worker"],
    ["worker", "--json"],
    ["doctor", "--json"],
    ["topics", "list"],
    ["topics", "acls", "worker", "--apply"],
    ["produce", "--type", "view"],
    ["watch", "--count", "1", "--timeout", "1"],
    ["inspect", "ann"],
    ["erase", "ann", "--timeout", "1"],
    ["no-such-command"],
]


@pytest.mark.parametrize("debug", ["0", "1"])
@pytest.mark.parametrize("by", ["environment", "file"])
def test_no_command_prints_a_secret(tmp_path: Path, by: str, debug: str) -> None:
    file = tmp_path / "secret"
    file.write_text(CANARY * 2)
    config = tmp_path / "headwater.toml"
    config.write_text("[worker]\nno_such_setting = 1\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")}
    environment |= {
        "HEADWATER_DEBUG": debug,
        "HEADWATER_BROKER": f"127.0.0.1:{claim_port(0)}",
        "HEADWATER_BROKER_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "HEADWATER_BROKER_SASL_USERNAME": "ada",
        "HEADWATER_WORKER_DATA_DIR": str(tmp_path / "state"),
    }
    for name in ("HEADWATER_BROKER_SASL_PASSWORD", "HEADWATER_PRIVACY_PSEUDONYM_KEY"):
        environment |= {f"{name}_FILE": str(file)} if by == "file" else {name: CANARY * 2}
    # In each form they fail at another place: a silent broker, an unknown command, a bad setting.
    commands = [*COMMANDS, ["--config", str(config), "topics", "list"]]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", COMMAND, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=tmp_path,
        )
        for command in commands
    ]
    for command, process in zip(commands, running, strict=True):
        said, _ = process.communicate(timeout=120)
        assert said, command
        assert process.returncode, command
        assert CANARY.encode() not in said, command
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and path != file]
    assert not [path for path in kept if CANARY.encode() in path.read_bytes()]
