"""Decisions are made on the writer (F33): there is one database URL, and none that may lead to a replica is taken."""

import re
from pathlib import Path

import pytest

from contracts.errors import Misconfigured
from shared_state.settings import Settings, load

ROOT = Path(__file__).parents[2]
REPLICA = re.compile(r"\breplica\b|standby|read_only_url|reader_url|target_session_attrs", re.IGNORECASE)
WHERE_IT_IS_REFUSED = ROOT / "shared_state" / "settings.py"


def test_there_is_one_database_and_no_word_of_a_replica() -> None:
    assert [name for name in Settings.model_fields if "database" in name] == ["database_url"]
    found = [
        str(path)
        for package in ("contracts", "shared_state", "workers", "orchestrator")
        for path in (ROOT / package).rglob("*.py")
        if path != WHERE_IT_IS_REFUSED and REPLICA.search(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize("wanted", ["any", "read-only", "standby", "prefer-standby"])
def test_a_url_that_may_lead_to_a_replica_is_refused(wanted: str) -> None:
    with pytest.raises(Misconfigured, match=r"database_url: .*target_session_attrs.*read-write"):
        load({}, None, {"database_url": f"postgresql://user@one,two/db?target_session_attrs={wanted}"})


def test_several_servers_need_to_be_asked_which_one_writes() -> None:
    with pytest.raises(Misconfigured, match=r"database_url: .*target_session_attrs=read-write"):
        load({}, None, {"database_url": "postgresql://user@one,two/db"})
    url = "postgresql://user@one,two/db?target_session_attrs=read-write"
    assert load({}, None, {"database_url": url}).database_url == url
