"""What a Python file defines and imports, read from its syntax tree without running it."""

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from workers.gates.facts import Fact
from workers.gates.sources import Source
from workers.teams.survey.shapes import Function, Import, Name

FUNCTIONS_LIMIT = 20
"""How many of a file's functions are told: its longest. As many as the report tells of the whole tree."""

Kind = Literal["function", "class", "value", "import"]
Definition = ast.FunctionDef | ast.AsyncFunctionDef
_BLOCKS = (ast.If, ast.Try, ast.TryStar, ast.With, ast.AsyncWith, ast.For, ast.AsyncFor, ast.While, ast.Match)


class NotPython(Exception):
    """The file does not parse with the Python that runs this. The text says where, without quoting the file."""


@dataclass
class Outline:
    doc: Fact | None = None
    entry: Fact | None = None
    names: list[Name] = field(default_factory=list)
    imports: list[Import] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    function_count: int = 0


def outline(path: str, source: Source) -> Outline:
    """Raises `NotPython`."""
    tree = _parse(source.text)
    functions = [_function(path, source, name, node) for name, node in _functions(tree)]
    longest = sorted(functions, key=lambda each: (-each.length_lines, each.line))[:FUNCTIONS_LIMIT]
    return Outline(
        doc=_doc(path, source, tree),
        entry=_entry(path, source, tree),
        names=_public_names(path, source, tree),
        imports=_imports(path, source, tree),
        functions=longest,
        function_count=len(functions),
    )


def _parse(text: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            # Warnings about the surveyed code are not ours, and must not become errors.
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except SyntaxError as error:
        raise NotPython(f"line {error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise NotPython(f"too deep or too large to parse ({type(error).__name__})") from error


def _doc(path: str, source: Source, tree: ast.Module) -> Fact | None:
    """The first line of the module's docstring that says something."""
    if ast.get_docstring(tree, clean=False) is None:
        return None
    node = tree.body[0]
    for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
        text = source.quote(line)
        if any(character.isalnum() for character in text.lstrip(" rRuU'\"")):
            return Fact(path=path, line=line, text=text)
    return None


def _entry(path: str, source: Source, tree: ast.Module) -> Fact | None:
    for node in tree.body:
        test = node.test if isinstance(node, ast.If) else None
        if isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__":
            return Fact(path=path, line=node.lineno, text=source.quote(node.lineno))
    return None


def _public_names(path: str, source: Source, tree: ast.Module) -> list[Name]:
    """What `__all__` lists, where it is one plain list; else what is defined without a leading underscore."""
    listed = _static_all(tree)
    names: dict[str, Name] = {}
    for name, kind, line in _bindings(tree):
        public = name in listed if listed is not None else kind != "import" and not name.startswith("_")
        if public and name not in names:
            names[name] = Name(path=path, line=line, text=source.quote(line), name=name, kind=kind)
    return list(names.values())


def _static_all(tree: ast.Module) -> frozenset[str] | None:
    assigned: list[ast.expr | None] = []
    for node in _module_statements(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            assigned.append(node.value if isinstance(node, ast.Assign) else None)
    if len(assigned) != 1 or not isinstance(assigned[0], ast.List | ast.Tuple):
        return None
    items = assigned[0].elts
    names = [item.value for item in items if isinstance(item, ast.Constant) and isinstance(item.value, str)]
    return frozenset(names) if len(names) == len(items) else None


def _bindings(tree: ast.Module) -> Iterator[tuple[str, Kind, int]]:
    """Names bound by definitions, assignments and imports of the module itself, with their line."""
    for node in _module_statements(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name, "function", node.lineno
            case ast.ClassDef():
                yield node.name, "class", node.lineno
            case ast.Assign():
                for target in node.targets:
                    for name in _target_names(target):
                        yield name.id, "value", name.lineno
            case ast.AnnAssign(target=ast.Name() as name, value=value) if value is not None:
                yield name.id, "value", name.lineno
            case ast.Import():
                for alias in node.names:
                    yield alias.asname or alias.name.partition(".")[0], "import", alias.lineno
            case ast.ImportFrom():
                for alias in node.names:
                    yield alias.asname or alias.name, "import", alias.lineno
            case _:
                pass


def _target_names(target: ast.expr) -> Iterator[ast.Name]:
    waiting = [target]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name):
            yield node
        elif isinstance(node, ast.Tuple | ast.List):
            waiting.extend(reversed(node.elts))
        elif isinstance(node, ast.Starred):
            waiting.append(node.value)


def _module_statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run as part of the module, those inside `if`, `try`, `with` and loops included."""
    waiting: list[ast.stmt] = list(reversed(tree.body))
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, _BLOCKS):
            waiting.extend(reversed(list(_inner_statements(node))))


def _inner_statements(node: ast.AST) -> Iterator[ast.stmt]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        elif isinstance(child, ast.ExceptHandler | ast.match_case):
            yield from child.body


def _imports(path: str, source: Source, tree: ast.Module) -> list[Import]:
    """Every import of the file, those inside functions included, in the order of their lines."""
    found: list[tuple[int, str, list[str], int]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.lineno, alias.name, [], 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.lineno, node.module or "", [alias.name for alias in node.names], node.level))
    return [
        Import(path=path, line=line, text=source.quote(line), module=module, names=names, level=level)
        for line, module, names, level in sorted(found, key=lambda each: each[0])
    ]


def _functions(tree: ast.Module) -> Iterator[tuple[str, Definition]]:
    """Every function and method with its dotted name."""
    waiting: list[tuple[str, ast.AST]] = [("", tree)]
    while waiting:
        outer, node = waiting.pop()
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{outer}.{child.name}" if outer else child.name
                if not isinstance(child, ast.ClassDef):
                    yield name, child
                waiting.append((name, child))
            elif isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
                waiting.append((outer, child))


def _function(path: str, source: Source, name: str, node: Definition) -> Function:
    last = node.end_lineno or node.lineno
    return Function(
        path=path,
        line=node.lineno,
        text=source.quote(node.lineno),
        name=name,
        last_line=last,
        length_lines=last - node.lineno + 1,
    )
