"""When a worker must not start it says why in one line and exits with 1."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from infra.broker.probe import claim_port
from models.runtime import DEFAULT_ARTEFACT
from streams.settings import Settings
from tests.integration.harness import WorkerProcess, create_topics, new_settings

_COMMAND = "import sys; from streams.cli import main; main()"


def _refusal(settings: Settings, home: Path) -> str:
    """What ``headwater worker`` says when it refuses."""
    lines: list[str] = []
    for section in ("broker", "topics", "worker"):
        lines.append(f"[{section}]")
        values = getattr(settings, section)
        for name in values.__struct_fields__:
            value = getattr(values, name)
            if value is not None:
                lines.append(f"{name} = {json.dumps(value)}")
    config = home / "refused.toml"
    config.write_text("\n".join(lines))
    ended = subprocess.run(
        [sys.executable, "-c", _COMMAND, "--config", str(config), "worker"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("HEADWATER_")},
    )
    errors = [line for line in ended.stderr.splitlines() if "ERROR" in line]
    assert ended.returncode == 1, ended.stderr
    assert len(errors) == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    return errors[0]


def test_missing_topics(embedded: str, tmp_path: Path) -> None:
    settings = new_settings(embedded, tmp_path)
    create_topics(settings, without=[settings.topics.click])
    said = _refusal(settings, tmp_path)
    assert f"'{settings.topics.click}' does not exist" in said
    assert "headwater topics create" in said


def test_an_event_topic_with_another_partition_count(embedded: str, tmp_path: Path) -> None:
    settings = new_settings(embedded, tmp_path)
    create_topics(settings, partitions={settings.topics.purchase: 7})
    said = _refusal(settings, tmp_path)
    assert f"'{settings.topics.purchase}' has 7 partitions" in said
    assert "4" in said


def test_a_broker_that_is_away(tmp_path: Path) -> None:
    address = f"127.0.0.1:{claim_port(0)}"
    started = time.monotonic()
    said = _refusal(new_settings(address, tmp_path), tmp_path)
    assert address in said
    assert "HEADWATER_BROKER" in said
    assert time.monotonic() - started < 30


def test_a_model_whose_hash_is_wrong(embedded: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(DEFAULT_ARTEFACT, model)
    bias = bytearray((model / "item_bias.npy").read_bytes())
    bias[-1] ^= 1
    (model / "item_bias.npy").write_bytes(bias)
    settings = new_settings(embedded, tmp_path, model_dir=str(model))
    create_topics(settings)
    assert "item_bias.npy" in _refusal(settings, tmp_path)


def test_a_data_directory_in_use(embedded: str, tmp_path: Path) -> None:
    settings = new_settings(embedded, tmp_path)
    create_topics(settings)
    with WorkerProcess(settings, tmp_path).start() as first:
        first.wait_ready()
        second = new_settings(embedded, tmp_path, app_id=settings.worker.app_id, data_dir=str(first.data_dir))
        said = _refusal(_with_topics_of(settings, second), tmp_path)
        assert str(first.data_dir) in said
        assert "worker.data_dir" in said
        time.sleep(1)
        assert first.is_running(), first.log_tail()


def _with_topics_of(settings: Settings, other: Settings) -> Settings:
    return Settings(broker=other.broker, topics=settings.topics, worker=other.worker)


def test_a_state_of_other_topics(embedded: str, tmp_path: Path) -> None:
    """The directory is ahead of a changelog that was made anew."""
    settings = new_settings(embedded, tmp_path)
    create_topics(settings)
    worker = WorkerProcess(settings, tmp_path)
    from streams.store import StateStore

    store = StateStore(worker.data_dir / settings.worker.app_id, block_cache_mb=8, write_buffer_mb=8)
    for partition in range(settings.topics.partitions):
        store.open(partition)
        store.write(partition, [(b"user-1", b"of another cluster")], 1_000)
    store.close_all()
    with worker.start():
        assert worker.process.wait(60) == 1
    assert b"is ahead of its changelog" in worker.log()
