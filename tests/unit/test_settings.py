"""Settings from the file and the environment, and the errors that name what is wrong."""

import re
from pathlib import Path
from typing import Any

import pytest

import infra
from operators import limits
from streams.settings import Secret, Settings, SettingsError, load_settings


def written(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def refused(path: str | None = None, environ: dict[str, str] | None = None, overrides: Any = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(path, environ or {}, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(autouse=True)
def empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


def test_defaults_are_complete_and_bind_to_loopback() -> None:
    settings = load_settings(environ={})
    assert settings == Settings()
    assert settings.worker.web_host == "127.0.0.1"
    assert settings.topics.events == ("view", "click", "purchase")
    assert (Path(settings.worker.model_dir) / "manifest.json").parts[-3:] == ("models", "artefact", "manifest.json")


def test_the_environment_wins_over_the_file_and_overrides_over_both(tmp_path: Path) -> None:
    path = written(
        tmp_path / "h.toml", '[worker]\nlist_items = 5\nvariant = "file"\nexplain = false\n[broker]\naddress = "a:1"\n'
    )
    environ = {"HEADWATER_BROKER": "b:2", "HEADWATER_WORKER_VARIANT": "env", "HEADWATER_TOPICS_PARTITIONS": "16"}
    settings = load_settings(path, environ, {"worker": {"variant": "override"}})
    assert settings.worker.list_items == 5
    assert settings.worker.variant == "override"
    assert settings.worker.explain is False
    assert settings.broker.address == "b:2"
    assert settings.topics.partitions == 16


def test_values_of_the_environment_are_converted() -> None:
    environ = {
        "HEADWATER_WORKER_EXPLAIN": "false",
        "HEADWATER_WORKER_SESSION_TIMEOUT_S": "12.5",
        "HEADWATER_WORKER_WEB_PORT": "0",
        "SOMETHING_ELSE": "x",
    }
    worker = load_settings(environ=environ).worker
    assert (worker.explain, worker.session_timeout_s, worker.web_port) == (False, 12.5, 0)


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("HEADWATER_WORKER_DELIVRY", "HEADWATER_WORKER_DELIVERY"),
        ("HEADWATER_WOKER_LIST_ITEMS", "HEADWATER_WORKER_LIST_ITEMS"),
        ("HEADWATER_WORKER_PORT", "HEADWATER_WORKER_WEB_PORT"),
        ("HEADWATER_PRIVACY_SALT", "SETTINGS.md"),
    ],
)
def test_a_variable_that_is_no_setting_is_refused(variable: str, meant: str) -> None:
    message = refused(environ={variable: "1"})
    assert variable in message
    assert meant in message


def test_variables_of_others_are_let_be() -> None:
    environ = {
        "HEADWATER_DEBUG": "1",
        "HEADWATER_FUZZ": "10",
        "HEADWATER_CI_AUDIT": "1",
        "HEADWATER_HOMEPAGE": "x",
        "HEADWATER_WORKER_SERVICE_HOST": "10.0.0.1",
        "HEADWATER_WORKER_SERVICE_PORT": "6066",
        "HEADWATER_WORKER_PORT": "tcp://10.0.0.1:6066",
        "HEADWATER_WORKER_PORT_6066_TCP_ADDR": "10.0.0.1",
        "HEADWATER_BROKER_SERVICE_PORT_KAFKA": "9092",
    }
    assert load_settings(environ=environ) == Settings()


_PAGE = Path(infra.__file__).parent / "docs" / "SETTINGS.md"


def test_the_page_has_every_setting_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+\.\w+)` \| ([^|]+) \|", _PAGE.read_text("utf-8"), re.MULTILINE))
    defaults = {
        f"{section}.{name}": getattr(getattr(Settings(), section), name)
        for section in Settings.__struct_fields__
        for name in getattr(Settings(), section).__struct_fields__
    }
    assert rows.keys() == defaults.keys()
    for name, default in defaults.items():
        shown = "that of the package" if name == "worker.model_dir" else "none" if default is None else default
        assert rows[name].strip("` ") == str(shown), name


def test_headwater_toml_of_the_working_directory_is_read() -> None:
    written(Path("headwater.toml"), "[worker]\nlist_items = 7\n")
    assert load_settings(environ={}).worker.list_items == 7


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"HEADWATER_WORKER_LIST_ITEMS": str(limits.list_items_max + 1)}, "list_items"),
        ({"HEADWATER_WORKER_LIST_ITEMS": "ten"}, "list_items"),
        ({"HEADWATER_WORKER_WEB_PORT": "70000"}, "web_port"),
        ({"HEADWATER_WORKER_APP_ID": "a/b"}, "app_id"),
        ({"HEADWATER_WORKER_SEEN_ITEMS": "hide"}, "seen_items"),
        ({"HEADWATER_WORKER_PROVIDER": "tpu"}, "provider"),
        ({"HEADWATER_WORKER_BLOCK_CACHE_MB": "0"}, "block_cache_mb"),
        ({"HEADWATER_TOPICS_PARTITIONS": "0"}, "partitions"),
        ({"HEADWATER_BROKER_SECURITY_PROTOCOL": "TLS"}, "security_protocol"),
    ],
)
def test_a_value_out_of_range_names_its_setting(environ: dict[str, str], named: str) -> None:
    assert named in refused(environ=environ)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[worker]\nlist_itmes = 5\n", "list_itmes"),
        ("[wroker]\nlist_items = 5\n", "wroker"),
        ("broker = 1\n", "'broker' is not a section"),
        ("stray = true\n", "'stray' is not a section"),
        ("[worker\n", "not valid TOML"),
        ('[broker]\nsasl_password = "hunter2"\n', "sasl_password_file"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path: Path, text: str, named: str) -> None:
    message = refused(written(tmp_path / "h.toml", text))
    assert named in message
    assert "hunter2" not in message


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    assert "absent.toml" in refused(str(tmp_path / "absent.toml"))
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    assert "b.toml" in refused(str(tmp_path / "b.toml"))


def test_the_password_comes_from_the_environment_and_shows_itself_nowhere() -> None:
    settings = load_settings(environ={"HEADWATER_BROKER_SASL_PASSWORD": "hunter2"})
    password = settings.broker.password()
    assert password == "hunter2"  # noqa: S105
    assert isinstance(password, Secret)
    for shown in (repr(password), repr(settings), str(settings), f"{settings.broker}", repr([settings.broker])):
        assert "hunter2" not in shown
    assert "sasl_password='***'" in repr(settings)


def test_the_password_may_lie_in_a_file(tmp_path: Path) -> None:
    path = written(tmp_path / "secret", "hunter2\n")
    broker = load_settings(environ={"HEADWATER_BROKER_SASL_PASSWORD_FILE": path}).broker
    assert broker.password() == "hunter2"
    absent = load_settings(environ={"HEADWATER_BROKER_SASL_PASSWORD_FILE": path + "x"}).broker
    with pytest.raises(SettingsError, match="sasl_password_file"):
        absent.password()


def test_no_password_is_none() -> None:
    assert load_settings(environ={}).broker.password() is None
