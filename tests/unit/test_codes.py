"""The reason codes: a closed list, documented, and every code that our code fails with is on it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import contracts
from contracts.errors import CODES
from tests.write_code_table import DOCUMENT, rendered

ROOT = Path(contracts.__file__).parent.parent
FAILING = {"Failure": "code", "InvalidMessage": "reason", "BadMessage": "reason"}


def test_the_documented_codes_have_not_drifted() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == rendered(text), "run `make schemas` and commit what it wrote"


def test_every_code_that_is_used_is_on_the_list() -> None:
    used = {
        code: place
        for package in ("contracts", "shared_state", "workers", "orchestrator")
        for code, place in _used(package)
    }
    assert len(used) > 15
    assert {code: place for code, place in used.items() if code not in CODES} == {}


@pytest.mark.parametrize("name", sorted(CODES))
def test_every_code_says_what_it_means_and_what_to_do(name: str) -> None:
    code = CODES[name]
    assert code.meaning.endswith(".")
    assert code.remedy.endswith(".")
    assert len(code.remedy) > 6


def _used(package: str) -> Iterator[tuple[str, str]]:
    """Literal codes in calls that make a failure, with the file they are in."""
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FAILING:
                given = [each.value for each in node.keywords if each.arg == FAILING[node.func.id]] + node.args[:1]
                yield from (
                    (each.value, str(path))
                    for each in given
                    if isinstance(each, ast.Constant) and isinstance(each.value, str)
                )
