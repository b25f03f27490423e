"""The pytest plugin of one mutant's process: takes the guard away before anything is imported, lends it the servers.

ORCHESTRATOR_TEST_MUTANT is `sql/<statement>/<guard>` or `python/<check>`; ORCHESTRATOR_TEST_MUTANT_DATABASE the URL
of a migrated database.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import CodeType, ModuleType
from typing import Any

import pytest

from tests.mutation.checks import CHECKS, Check
from tests.mutation.guards import without

MUTANT = os.environ.get("ORCHESTRATOR_TEST_MUTANT", "")
DATABASE = os.environ.get("ORCHESTRATOR_TEST_MUTANT_DATABASE", "")
LENT = ("postgres", "template_database", "database_url")
"""Fixtures that are the URL here: the last, and those it asks for, which would be made before it."""


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles one module with one text replaced; the file stays as it is."""

    def __init__(self, check: Check, path: str) -> None:
        super().__init__(check.module, path)
        self._check = check

    def get_code(self, fullname: str) -> CodeType:
        source = self._check.mutated(self.get_data(self.path).decode())
        return compile(source, self.path, "exec")


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, check: Check) -> None:
        self._check = check

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._check.module:
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path)
        if found is None or found.origin is None:
            return None
        return importlib.util.spec_from_loader(fullname, _Loader(self._check, found.origin))


def _take_away() -> None:
    """On import: before pytest reads any conftest, which would import what is to be changed."""
    kind, _, name = MUTANT.partition("/")
    if kind == "python":
        check = CHECKS[name]
        if check.module in sys.modules:
            raise pytest.UsageError(f"{check.module} was imported before it could be changed")
        sys.meta_path.insert(0, _Finder(check))
    elif kind == "sql":
        _change_statement(*name.split("/", 1))


def _change_statement(statement: str, guard: str) -> None:
    from shared_state import statements

    load = statements.load
    changed = without(load(statement), guard)

    def load_mutant(name: str) -> str:
        return changed if name == statement else load(name)

    vars(statements)["load"] = load_mutant


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: Any) -> object | None:
    """All mutants share one server and one database, which every test empties; nobody starts a server or migrates."""
    if not DATABASE or fixturedef.argname not in LENT:
        return None
    fixturedef.cached_result = (DATABASE, fixturedef.cache_key(request), None)
    return DATABASE


_take_away()
