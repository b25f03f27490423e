"""Logs hold no secret: not by name, not in URLs, not among a traceback's local variables."""

import json
import subprocess
import sys

import pytest

from shared_state.logs import blank_names
from shared_state.redaction import Redaction
from shared_state.settings import Settings

PROGRAM = """
import structlog, logging
from shared_state.logs import configure_logs
from shared_state.settings import Settings
configure_logs(Settings(log_format={format!r}))
def fail():
    key = "Bearer hunter2"
    raise ValueError("broken")
try:
    fail()
except ValueError:
    structlog.get_logger("x").exception("one.failed", url="redis://:hunter2@h/0", api_key="hunter2")
    logging.getLogger("y").exception("two failed")
"""


def test_names_are_blanked_however_deep() -> None:
    event = blank_names(None, "info", {"event": "x", "api_key": "k", "said": {"token": "t", "n": 1}, "n": 1})
    assert event == {"event": "x", "api_key": "***", "said": {"token": "***", "n": 1}, "n": 1}


SECRETS = {
    "signing_keys": "one:signing-secret-1,two:signing-secret-2",
    "api_key": "an-api-key",
    "database_url": "postgresql://u:p%40ss-of-database@h/db",
    "broker_url": "redis://:pass-of-broker@h/0",
    "model": "test:model",
    "model_api_key": "key-of-a-model",
    "metrics_token": "token-of-the-metrics",
    "flower_password": "password-of-flower",
    "dead_letter_webhook_url": "https://h/hook-with-a-token",
    "dead_letter_webhook_secret": "secret-of-the-webhook",
}
"""Every setting that is one; each value's own words are looked for below."""
VALUES = [
    "signing-secret-1",
    "signing-secret-2",
    "an-api-key",
    "p@ss-of-database",
    "pass-of-broker",
    "key-of-a-model",
    "token-of-the-metrics",
    "password-of-flower",
    "https://h/hook-with-a-token",
    "secret-of-the-webhook",
]
BY_VALUE = """
import json, logging, sys
import structlog
from shared_state.logs import configure_logs
from shared_state.settings import load
secrets, values, form = json.loads(sys.argv[1])
configure_logs(load({}, None, {**secrets, "log_format": form}))
for value in values:
    structlog.get_logger("x").warning("said", text=f"it was {value}!", listed=[value])
    logging.getLogger("y").warning("lib said %s", value)
    try:
        raise ValueError(f"wrong: {value}")
    except ValueError:
        structlog.get_logger("x").exception("failed")
structlog.get_logger("x").warning("said", text="Authorization: Bearer abcdefghijkl.mnop, not mine")
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_every_secret_of_the_settings_is_blanked_by_value(form: str) -> None:
    given = json.dumps([SECRETS, VALUES, form])
    ran = subprocess.run([sys.executable, "-c", BY_VALUE, given], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("it was ***!") == len(VALUES)
    assert [value for value in [*VALUES, "abcdefghijkl"] if value in ran.stderr] == []


def test_the_list_of_secret_settings_is_complete() -> None:
    secret = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert secret <= set(SECRETS)


def test_passwords_in_urls_are_blanked_also_where_they_are_not_ours() -> None:
    assert Redaction(set()).text("at amqp://u:p@h/v") == "at amqp://u:***@h/v"


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_shows_no_local_variables(form: str) -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM.format(format=form)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("ValueError") >= 2
    # Python shows the line that failed, never the values; the line above it holds the secret.
    assert "hunter2" not in ran.stderr
