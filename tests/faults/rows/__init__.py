"""The rows of the fault matrix: every module here has `ROWS`, a tuple of them."""

import importlib
import pkgutil
import re

from tests.faults.row import Row


def all_rows() -> list[Row]:
    """In the order of their names; those with a guard off last."""
    found = [
        row
        for module in pkgutil.iter_modules(__path__)
        for row in importlib.import_module(f"{__name__}.{module.name}").ROWS
    ]
    return sorted(found, key=lambda row: (row.ablation is not None, _numbers(row.name)))


def chosen(names: list[str]) -> list[Row]:
    """Rows whose name is, or begins with, one of `names` and a dash. Raises `KeyError` for a name without rows."""
    rows = all_rows()
    picked = [row for row in rows if any(row.name == name or row.name.startswith(f"{name}-") for name in names)]
    for name in names:
        if not any(row.name == name or row.name.startswith(f"{name}-") for row in picked):
            raise KeyError(name)
    return picked


def _numbers(name: str) -> tuple[int, str]:
    number = re.search(r"\d+", name)
    return (int(number[0]) if number else 0, name)
