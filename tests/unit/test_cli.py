"""streams.cli: what every command has, quick help, errors in one line."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from streams.cli import app, run

HELP_S_MAX = 0.3


def _commands(command: Any, path: str = "headwater") -> Iterator[tuple[str, Any]]:
    children: dict[str, Any] = getattr(command, "commands", {})
    for name, child in children.items():
        if getattr(child, "commands", None):
            yield from _commands(child, f"{path} {name}")
        else:
            yield f"{path} {name}", child


COMMANDS = dict(_commands(typer.main.get_command(app)))


@pytest.fixture(autouse=True)
def _plain_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("HEADWATER_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_help_an_example_and_json(path: str) -> None:
    command = COMMANDS[path]
    assert command.help
    assert (command.epilog or "").startswith(f"Example: {path}")
    assert any("--json" in option.opts for option in command.params)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["topics"], ["replay", "--help"]])
def test_help_ends_well(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 0
    assert "Usage: headwater" in capsys.readouterr().out


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, streams.cli as c; c.run(['--help']);"
        "heavy = {'torch', 'faust', 'kafka', 'onnxruntime', 'numpy', 'pyarrow'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    took_s: list[float] = []
    for _ in range(3):
        before = os.times()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        after = os.times()
        assert done.returncode == 0, done.stderr
        took_s.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(took_s) < HELP_S_MAX


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["bogus"], 2, "No such command 'bogus'; see `headwater --help`"),
        (["replay"], 2, "Missing argument"),
        (["watch", "--count", "none"], 2, "--count"),
        (["--config", "absent.toml", "doctor"], 2, "absent.toml: cannot read the settings file"),
        (["replay", "absent.csv"], 2, "absent.csv: cannot read it"),
        (["replay", "absent.csv", "--speed", "-1"], 2, "speed '-1'"),
        (["replay", "absent.csv", "--from", "yesterday"], 2, "'yesterday' is no time"),
        (["evaluate", "complete-journey", "--model", "absent"], 1, "absent"),
    ],
)
def test_bad_input_is_one_line_and_a_status(
    arguments: list[str], status: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("headwater: ")
    assert captured.err.count("\n") == 1
    assert says in captured.err


@pytest.mark.parametrize("arguments", [["topics", "list"], ["watch"], ["inspect", "1"], ["produce", os.devnull]])
def test_no_broker_is_one_line_with_the_next_step(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HEADWATER_BROKER", "127.0.0.1:1")
    monkeypatch.setattr("streams.clients.kafka._CONNECT_TIMEOUT_MS", 300)
    started = time.monotonic()
    assert run(arguments) == 1
    assert time.monotonic() - started < 10
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "no Kafka broker answers at 127.0.0.1:1" in captured.err
    assert "headwater broker" in captured.err


def test_an_unexpected_error_is_one_line_unless_debugging(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_args: object, **_options: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("streams.clients.topics.list_topics", fails)
    assert run(["topics", "list"]) == 1
    assert capsys.readouterr().err == "headwater: unexpected RuntimeError: two lines; HEADWATER_DEBUG=1 shows where\n"
    monkeypatch.setenv("HEADWATER_DEBUG", "1")
    with pytest.raises(RuntimeError):
        run(["topics", "list"])


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (
        "models.recipes",
        "models.train",
        "models.checkpoints",
        "models.scan",
        "models.encoder",
        "models.losses",
    ):
        monkeypatch.delitem(sys.modules, f"models.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run(["train", "--out", "x"]) == 1
    assert capsys.readouterr().err == "headwater: this command needs torch; pip install 'headwater[train]'\n"
