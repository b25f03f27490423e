"""Imports go one way: contracts <- shared_state <- {workers, orchestrator}; and contracts stays pure."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "contracts": {"contracts"},
    "shared_state": {"contracts", "shared_state"},
    "workers": {"contracts", "shared_state", "workers"},
    "orchestrator": {"contracts", "shared_state", "orchestrator"},
}
IMPURE = {"os", "socket", "subprocess", "time", "random", "secrets", "pathlib", "threading", "tempfile", "urllib"}


def imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import by the full name"
            yield node.lineno, node.module or ""


def wrong_imports(package: str, folder: Path) -> list[str]:
    wrong = []
    for path in sorted(folder.rglob("*.py")):
        for line, name in imports(path):
            top = name.partition(".")[0]
            if top in ALLOWED and top not in ALLOWED[package]:
                wrong.append(f"{path}:{line} imports {name}")
    return wrong


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_go_one_way(package: str) -> None:
    assert wrong_imports(package, ROOT / package) == []


def test_a_wrong_import_is_found(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import os\nfrom workers.delivery import Delivery\n", encoding="utf-8")
    assert len(wrong_imports("orchestrator", tmp_path)) == 1


def test_contracts_are_pure() -> None:
    """No I/O, no clock, no environment: only the standard library's pure parts and pydantic."""
    for path in sorted((ROOT / "contracts").rglob("*.py")):
        for line, name in imports(path):
            top = name.partition(".")[0]
            assert top in {"contracts", "pydantic"} or top in sys.stdlib_module_names, f"{path}:{line} imports {name}"
            assert top not in IMPURE, f"{path}:{line} imports {name}"


def test_no_module_is_named_for_nothing() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}
    for package in ALLOWED:
        assert [path for path in (ROOT / package).rglob("*.py") if path.stem in vague] == []
