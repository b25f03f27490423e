"""Settings: which layer wins, and what a mistake says."""

import json
from pathlib import Path

import pytest

from contracts.errors import Misconfigured
from shared_state.settings import Settings, child_environment, load, masked

SECRET = "s3cr3t-and-long-enough"


def toml(folder: Path, text: str) -> Path:
    file = folder / "orchestrator.toml"
    file.write_text(text, encoding="utf-8")
    return file


def refusal(environ: dict[str, str], file: Path | None = None, **overrides: object) -> str:
    with pytest.raises(Misconfigured) as caught:
        load(environ, file, overrides)
    return caught.value.text


def test_every_layer_overrides_only_what_it_sets(tmp_path: Path) -> None:
    file = toml(tmp_path, 'lease_seconds = 11\nsweep_seconds = 2\nworker_slots = 3\nlog_level = "debug"\n')
    environ = {"ORCHESTRATOR_SWEEP_SECONDS": "4.5", "ORCHESTRATOR_WORKER_SLOTS": "5", "PATH": "/bin"}
    settings = load(environ, file, {"worker_slots": 6, "retention_days": None})
    assert (settings.lease_seconds, settings.sweep_seconds, settings.worker_slots) == (11, 4.5, 6)
    assert (settings.log_level, settings.retention_days) == ("debug", 30)


def test_clients_find_a_dev_server_through_its_file_and_anything_set_beats_it(tmp_path: Path) -> None:
    written = {"api_url": "http://127.0.0.1:9", "api_key": SECRET, "not_a_setting": 1}
    (tmp_path / "dev.json").write_text(json.dumps({"settings": written}), encoding="utf-8")
    found = load({"ORCHESTRATOR_DATA_DIR": str(tmp_path)}, None, {})
    assert found.api_url == "http://127.0.0.1:9"
    assert found.api_key is not None
    assert found.api_key.get_secret_value() == SECRET
    beaten = load({"ORCHESTRATOR_DATA_DIR": str(tmp_path), "ORCHESTRATOR_API_URL": "http://other"}, None, {})
    assert beaten.api_url == "http://other"


def test_a_broken_dev_file_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "dev.json").write_text("{", encoding="utf-8")
    assert load({}, None, {"data_dir": tmp_path}).data_dir == tmp_path


def test_an_empty_variable_is_not_set() -> None:
    assert load({"ORCHESTRATOR_API_KEY": "", "ORCHESTRATOR_LEASE_SECONDS": ""}, None, {}) == Settings()


def test_a_secret_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"one:{SECRET}\n", encoding="utf-8")
    found = load({"ORCHESTRATOR_SIGNING_KEYS_FILE": str(tmp_path / "keys")}, None, {})
    assert found.signing_keys["one"].get_secret_value() == SECRET


def test_a_secret_by_file_is_refused_where_it_is_given_twice_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "key"
    named = {"ORCHESTRATOR_API_KEY_FILE": str(path)}
    assert refusal(named) == f"ORCHESTRATOR_API_KEY_FILE: {path} cannot be read: No such file or directory."
    path.write_text("\n", encoding="utf-8")
    assert refusal(named) == f"ORCHESTRATOR_API_KEY_FILE: {path} is empty."
    path.write_bytes(b"\xff")
    assert "not text in UTF-8" in refusal(named)
    path.write_text(SECRET, encoding="utf-8")
    text = refusal({**named, "ORCHESTRATOR_API_KEY": SECRET})
    assert "both set" in text
    assert SECRET not in text
    assert "unknown setting" in refusal({"ORCHESTRATOR_NONSENSE_FILE": str(path)})


@pytest.mark.parametrize(
    ("environ", "parts"),
    [
        ({"ORCHESTRATOR_LEASE_SECOND": "1"}, ["lease_second:", "ORCHESTRATOR_LEASE_SECOND", "'lease_seconds'"]),
        ({"ORCHESTRATOR_LEASE_SECONDS": "soon"}, ["lease_seconds:", "number", "ORCHESTRATOR_LEASE_SECONDS"]),
        ({"ORCHESTRATOR_DATABASE_URL": "mysql://u:hidden@h/d"}, ["database_url:", "postgresql:", "variable"]),
        ({"ORCHESTRATOR_DATABASE_URL": "postgresql://u:hidden@h:99999/d"}, ["database_url:", "port"]),
        ({"ORCHESTRATOR_SIGNING_KEYS": "nocolonhidden"}, ["signing_keys:", "name:secret"]),
        ({"ORCHESTRATOR_SIGNING_KEYS": "a:hidden"}, ["signing_keys:", "16 characters", "ORCHESTRATOR_SIGNING_KEYS"]),
        ({"ORCHESTRATOR_WORKER_SLOTS": "0"}, ["worker_slots:", "greater than"]),
        ({"ORCHESTRATOR_ROW_LEVEL_SECURITY": "on"}, ["row_level_security:", "'require'"]),
        *(
            ({f"ORCHESTRATOR_{name.upper()}": value}, [f"{name}:", f"variable ORCHESTRATOR_{name.upper()}"])
            for name, value in {
                "max_body_bytes": "1023",
                "max_json_depth": "7",
                "max_string_length": "many",
                "max_page_size": "199",
                "max_plan_steps": "0",
                "max_open_tasks": "-1",
                "max_ready_steps": "1.5",
                "max_requests": "0",
                "min_free_disk_bytes": "-1",
                "rate_per_second": "-0.1",
                "rate_burst": "0",
            }.items()
        ),
    ],
)
def test_a_bad_variable_is_named_with_its_problem_and_never_its_secret(
    environ: dict[str, str], parts: list[str]
) -> None:
    text = refusal(environ)
    assert all(part in text for part in parts), text
    assert "hidden" not in text


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    assert str(tmp_path) in refusal({}, toml(tmp_path, "lease = 3\n"))
    assert "not valid TOML" in refusal({}, toml(tmp_path, "lease_seconds =\n"))
    assert "no such settings file" in refusal({}, tmp_path / "absent.toml")


def test_a_bad_flag_is_named_as_it_is_typed() -> None:
    text = refusal({}, listen_port=70_000)
    assert "the flag --port)" in text
    assert "listen" not in text.replace("listen_port: ", "")
    assert "the flag --database-url)" in refusal({}, database_url="mysql://h/d")


def test_variables_of_others_are_left_alone() -> None:
    environ = {
        "ORCHESTRATOR_TEST_DATA": "x",
        "ORCHESTRATOR_SERVICE_HOST": "10.0.0.1",
        "ORCHESTRATOR_PORT": "tcp://10.0.0.1:80",
        "ORCHESTRATOR_PORT_80_TCP_ADDR": "10.0.0.1",
        "ORCHESTRATOR_API_SERVICE_PORT": "80",
        "ORCHESTRATOR_LISTEN_PORT": "81",
    }
    assert load(environ, None, {}) == Settings(listen_port=81)


def test_no_text_form_holds_a_secret() -> None:
    settings = Settings.model_validate(
        {
            "database_url": f"postgres://u:{SECRET}@h/d",
            "broker_url": f"redis://:{SECRET}@h/0",
            "artifact_url": f"s3://b/p?secret_access_key={SECRET}&region=x",
            "api_key": SECRET,
            "signing_keys": {"a": SECRET},
        }
    )
    assert settings.database_url == f"postgresql://u:{SECRET}@h/d"
    for text in (repr(settings), str(settings), f"{settings}"):
        assert SECRET not in text
        assert "region=x" in text


def test_masked_keeps_what_helps() -> None:
    assert (
        masked("postgresql://me:pw@host:5432/db?sslmode=require") == "postgresql://me:***@host:5432/db?sslmode=require"
    )
    assert masked("redis://h/0") == "redis://h/0"
    assert masked("postgres:") == "postgres:"
    assert masked("http://[bad") == "***"


def test_a_child_gets_exactly_the_same_settings(tmp_path: Path) -> None:
    settings = load(
        {"ORCHESTRATOR_SIGNING_KEYS": f"a:{SECRET},b:{SECRET}2", "ORCHESTRATOR_API_KEY": SECRET},
        None,
        {"data_dir": tmp_path, "database_url": f"postgresql://u:{SECRET}@h/d", "lease_seconds": 3.5},
    )
    again = load(child_environment(settings), None, {})
    assert again == settings
    assert list(again.signing_keys) == ["a", "b"]


def test_the_webhooks_address_is_checked_and_kept_secret() -> None:
    url, secret = "https://hooks.example.org/services/T0KEN", "a secret of the webhook"
    settings = load(
        {"ORCHESTRATOR_DEAD_LETTER_WEBHOOK_URL": url, "ORCHESTRATOR_DEAD_LETTER_WEBHOOK_SECRET": secret}, None, {}
    )
    assert "T0KEN" not in f"{settings} {settings!r}"
    assert secret not in f"{settings} {settings!r}"
    assert load(child_environment(settings), None, {}) == settings
    for wrong in ("ftp://h/T0KEN", "https:///T0KEN", "https://me:T0KEN@h/", "T0KEN"):
        with pytest.raises(Misconfigured) as refused:
            load({"ORCHESTRATOR_DEAD_LETTER_WEBHOOK_URL": wrong}, None, {})
        assert "dead_letter_webhook_url" in refused.value.text
        assert "T0KEN" not in refused.value.text
    with pytest.raises(Misconfigured):
        load({"ORCHESTRATOR_DEAD_LETTER_WEBHOOK_SECRET": "short"}, None, {})


@pytest.mark.parametrize("text", ["9464", ":9464", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "[::1]"])
def test_where_to_listen_is_a_host_and_a_port(text: str) -> None:
    for key in ("metrics_listen", "flower_listen"):
        with pytest.raises(Misconfigured, match=f"{key}: must have the form HOST:PORT"):
            load({f"ORCHESTRATOR_{key.upper()}": text}, None, {})


def test_metrics_that_others_can_reach_need_a_token() -> None:
    with pytest.raises(Misconfigured, match="metrics_listen: others can reach it there; set metrics_token"):
        load({"ORCHESTRATOR_METRICS_LISTEN": "0.0.0.0:9464"}, None, {})
    for listen in ("127.0.0.1:9464", "localhost:9464", "[::1]:9464"):
        assert load({"ORCHESTRATOR_METRICS_LISTEN": listen}, None, {}).metrics_address is not None
    both = {"ORCHESTRATOR_METRICS_LISTEN": "0.0.0.0:9464", "ORCHESTRATOR_METRICS_TOKEN": "sixteen characters"}
    assert load(both, None, {}).metrics_address == ("0.0.0.0", 9464)


@pytest.mark.parametrize("key", ["metrics_token", "flower_password"])
def test_a_short_secret_is_refused_and_none_is_printed(key: str) -> None:
    with pytest.raises(Misconfigured, match=f"{key}: is shorter than 16 characters"):
        load({f"ORCHESTRATOR_{key.upper()}": "short"}, None, {})
    settings = load({f"ORCHESTRATOR_{key.upper()}": "long enough for anybody"}, None, {})
    assert "long enough" not in str(settings)
    assert child_environment(settings)[f"ORCHESTRATOR_{key.upper()}"] == "long enough for anybody"


def test_the_default_model_is_checked_and_its_key_kept_secret() -> None:
    url = "http://127.0.0.1:11434/v1/"
    settings = load(
        {
            "ORCHESTRATOR_MODEL": "openai-chat:qwen3:8b",
            "ORCHESTRATOR_MODEL_BASE_URL": url,
            "ORCHESTRATOR_MODEL_API_KEY": SECRET,
        },
        None,
        {},
    )
    assert (settings.model, settings.model_base_url) == ("openai-chat:qwen3:8b", "http://127.0.0.1:11434/v1")
    assert SECRET not in f"{settings} {settings!r}"
    assert load(child_environment(settings), None, {}) == settings
    assert "model: must have the form provider:name" in refusal({"ORCHESTRATOR_MODEL": "gpt-5-mini"})
    assert "set model as well" in refusal({"ORCHESTRATOR_MODEL_BASE_URL": url})
    for wrong in ("ftp://h", "http://me:hidden@h/v1", "hidden"):
        text = refusal({"ORCHESTRATOR_MODEL": "openai-chat:m", "ORCHESTRATOR_MODEL_BASE_URL": wrong})
        assert "model_base_url" in text
        assert "hidden" not in text
