"""Logs hold no secret: not by name, not in URLs, not among a traceback's local variables."""

import subprocess
import sys

import pytest

from shared_state.logs import redact

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


def test_names_and_urls_are_blanked() -> None:
    event = redact(None, "info", {"event": "x", "api_key": "k", "url": "postgresql://u:p@h/db", "n": 1})
    assert event == {"event": "x", "api_key": "***", "url": "postgresql://u:***@h/db", "n": 1}


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_shows_no_local_variables(form: str) -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM.format(format=form)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("ValueError") >= 2
    # Python shows the line that failed, never the values; the line above it holds the secret.
    assert "hunter2" not in ran.stderr
