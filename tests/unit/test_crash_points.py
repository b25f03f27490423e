"""Crash points: a closed list, all placed, asleep unless a test or `orchestrator dev` wakes them."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from contracts.errors import Misconfigured
from shared_state import crash_points
from shared_state.crash_points import CRASH_AT, CRASH_PERMITTED, EXIT_CODE, POINTS, passed_on, refuse_crashes

ROOT = Path(__file__).parents[2]
LIVES = "from shared_state.crash_points import crash_point as c; c('C06'); c('C07', when=[]); c('C07'); c('C07')"


def placed() -> Iterator[str]:
    """The name in every call; a computed one is as good as a wrong one."""
    for package in ("contracts", "shared_state", "workers", "orchestrator"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "crash_point":
                    given = node.args[0]
                    choices = [given.body, given.orelse] if isinstance(given, ast.IfExp) else [given]
                    yield from (str(each.value) if isinstance(each, ast.Constant) else "computed" for each in choices)


def test_every_point_of_the_list_is_in_the_code_once_and_no_other() -> None:
    assert sorted(placed()) == sorted(POINTS)


def run(environ: Mapping[str, str], code: str = LIVES) -> "subprocess.CompletedProcess[bytes]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ORCHESTRATOR_", "PYTHONUNB"))}
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.stdout.write('never flushed'); {code}"],
        env={**kept, **environ},
        capture_output=True,
        check=False,
        timeout=30,
    )


@pytest.mark.parametrize(
    ("environ", "dies"),
    [
        ({}, False),
        ({CRASH_AT: "C07"}, False),
        ({CRASH_AT: "C07", CRASH_PERMITTED: "tests"}, True),
        ({CRASH_AT: "C07:2", CRASH_PERMITTED: "tests"}, True),
        ({CRASH_AT: "C07:3", CRASH_PERMITTED: "tests"}, False),
        ({CRASH_AT: "C08", CRASH_PERMITTED: "tests"}, False),
        ({CRASH_AT: "C99", CRASH_PERMITTED: "tests"}, False),
    ],
)
def test_only_the_named_point_kills_and_only_where_it_may(environ: dict[str, str], dies: bool) -> None:
    ended = run(environ)
    wanted = (EXIT_CODE, b"", b"crash point C07\n") if dies else (0, b"never flushed", b"")
    assert (ended.returncode, ended.stdout, ended.stderr) == wanted


def test_asleep_it_is_a_function_that_does_nothing() -> None:
    """The hot path pays for one call: nothing is looked up."""
    assert crash_points.crash_point is crash_points._pass_by


@pytest.mark.parametrize(
    ("environ", "parts"),
    [
        ({CRASH_AT: "C07"}, [CRASH_AT, "`orchestrator dev` and tests", "unset it"]),
        ({CRASH_AT: "C99", CRASH_PERMITTED: "tests"}, [CRASH_AT, "'C99'", "C01, C02"]),
        ({CRASH_AT: "C07:0", CRASH_PERMITTED: "tests"}, [CRASH_AT, "'C07:0'", "from 1 up"]),
        ({CRASH_AT: "C07:x", CRASH_PERMITTED: "tests"}, [CRASH_AT, "'C07:x'", "from 1 up"]),
    ],
)
def test_the_variable_is_refused_with_its_name_and_the_remedy(environ: dict[str, str], parts: list[str]) -> None:
    with pytest.raises(Misconfigured) as caught:
        refuse_crashes(environ)
    assert [part for part in parts if part not in caught.value.text] == []


@pytest.mark.parametrize("program", [["-m", "workers"], *(["-m", "orchestrator", each] for each in ("api", "check"))])
def test_no_process_starts_with_it(program: list[str]) -> None:
    """`loops` and `migrate` read their settings the same way."""
    ended = subprocess.run(
        [sys.executable, *program],
        env={**os.environ, CRASH_AT: "C07"},
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert ended.returncode == 1
    assert CRASH_AT in (ended.stderr + ended.stdout).decode()


def test_a_dev_server_may_have_it_and_hands_it_on() -> None:
    environ = {CRASH_AT: "C07:2", "HOME": "/"}
    refuse_crashes(environ, permitted=True)
    assert passed_on(environ) == {CRASH_AT: "C07:2", CRASH_PERMITTED: "dev"}
    assert passed_on({"HOME": "/"}) == {}
    with pytest.raises(Misconfigured):
        refuse_crashes({CRASH_AT: "C99"}, permitted=True)
