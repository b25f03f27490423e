"""Checks every claim of a survey's report.json against the files: `survey_checker.py REPORT_JSON ROOT`.

It shares no code with the team that wrote the report, and looks at the files in another way: tokens instead of
syntax trees, Python's own import machinery instead of a resolver, `os.walk` and text mode instead of descriptors.
Exits 1 and lists what is not true.
"""

import ast
import io
import json
import os
import re
import stat
import sys
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.machinery import FileFinder, SourceFileLoader
from typing import Any

QUOTE = 300
READ_LIMIT = 2_000_000
TOP = 20
USES = 2000
SKIPPED = [".eggs", ".git", ".hg", ".bzr", ".svn", ".tox", ".nox", "node_modules", "site-packages", "dist-packages"]
SKIPPED += [".hypothesis", ".mypy_cache", ".orchestrator", ".pytest_cache", ".ruff_cache", "__pycache__"]
RULES = {
    "skipped_folders": sorted(SKIPPED),
    "skipped_endings": [".dist-info", ".egg-info"],
    "skip_markers": ["CACHEDIR.TAG", "pyvenv.cfg"],
    "depth_limit": 40,
}
ODD_CODECS = {"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7"}
PYTHON = (".py", ".pyi", ".pyw")
TOOL_FILES = {"__init__", "__main__", "setup", "conftest", "noxfile", "manage", "sitecustomize"}

Token = tokenize.TokenInfo


@dataclass
class Logical:
    """One logical line: its tokens without comments and breaks, and the blocks it stands in."""

    tokens: list[Token]
    blocks: list["Block"]


@dataclass
class Block:
    kind: str
    name: str
    line: int
    last: int = 0


@dataclass
class Truth:
    """What one file really is."""

    path: str
    data: bytes = b""
    lines: list[str] = field(default_factory=list)
    problem: str | None = None
    logical: list[Logical] | None = None
    functions: list[Block] = field(default_factory=list)
    qualified: dict[int, str] = field(default_factory=dict)


def real(spelled: str) -> str:
    """A spelled path as the file system knows it."""
    raw = bytearray()
    rest = spelled.encode()
    while rest:
        if rest.startswith(b"\\x"):
            raw.append(int(rest[2:4], 16))
            rest = rest[4:]
        elif rest.startswith(b"\\\\"):
            raw += b"\\"
            rest = rest[2:]
        else:
            raw.append(rest[0])
            rest = rest[1:]
    return os.fsdecode(bytes(raw))


def look(root: str, spelled: str) -> Truth:
    truth = Truth(spelled)
    full = os.path.join(root, real(spelled))
    if os.path.islink(full):
        target = os.path.realpath(full)
        inside = target == root or target.startswith(root.rstrip("/") + "/")
        truth.problem = "symlink_broken" if not os.path.exists(full) else "symlink" if inside else "symlink_outside"
    elif not os.path.lexists(full):
        truth.problem = "missing"
    elif not stat.S_ISREG(os.lstat(full).st_mode):
        truth.problem = "not_regular"
    elif not os.access(full, os.R_OK):
        truth.problem = "denied"
    elif os.path.getsize(full) > READ_LIMIT:
        truth.problem = "too_large"
    else:
        read(truth, full)
    return truth


def read(truth: Truth, full: str) -> None:
    with open(full, "rb") as file:
        truth.data = file.read()
    if b"\0" in truth.data:
        truth.problem = "nul_bytes"
        return
    try:
        if truth.path.endswith(PYTHON):
            with tokenize.open(full) as text:
                if text.encoding.lower().replace("_", "-") in ODD_CODECS:
                    raise UnicodeError
                whole = text.read()
        else:
            with open(full, encoding="utf-8-sig") as text:
                whole = text.read()
        whole.encode()
    except (SyntaxError, UnicodeError, LookupError):
        truth.problem = "encoding"
        return
    truth.lines = [line.removesuffix("\n") for line in io.StringIO(whole, newline="\n")]
    if truth.path.endswith(PYTHON):
        parse(truth, whole)


def parse(truth: Truth, whole: str) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(whole, "checked", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # Only the grammar: `return` outside a function parses, though it does not compile.
                compile(whole, "checked", "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            truth.problem = "syntax"
            return
    truth.logical = list(logical_lines(truth, whole))


def logical_lines(truth: Truth, whole: str) -> Iterator[Logical]:
    blocks: list[Block] = []
    opened: Block | None = None
    current: list[Token] = []
    for token in tokenize.generate_tokens(io.StringIO(whole, newline="\n").readline):
        if token.type == tokenize.INDENT:
            assert opened is not None
            blocks.append(opened)
        elif token.type == tokenize.DEDENT:
            blocks.pop()
        elif token.type == tokenize.NEWLINE and current:
            opened = open_block(current)
            for block in (*blocks, opened):
                block.last = current[-1].end[0]
            if opened.kind == "def":
                truth.functions.append(opened)
                outer = [block.name for block in blocks if block.kind in ("def", "class")]
                truth.qualified[id(opened)] = ".".join((*outer, opened.name))
            yield Logical(current, list(blocks))
            current = []
        elif token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER):
            current.append(token)


def open_block(tokens: list[Token]) -> Block:
    words = [token.string for token in tokens[:3]]
    skip = 1 if words[0] == "async" else 0
    kind = words[skip] if words[skip : skip + 1] in (["def"], ["class"]) else "other"
    name = words[skip + 1] if kind != "other" else ""
    return Block(kind, name, tokens[0].start[0])


def imports_of(truth: Truth) -> list[tuple[int, str, int, tuple[str, ...]]]:
    """Line, module, level and names of every import, found by the keyword `import`, which stands nowhere else."""
    found = []
    for logical in truth.logical or ():
        tokens = logical.tokens
        for at, token in enumerate(tokens):
            if token.type == tokenize.NAME and token.string == "import":
                found += one_import(tokens, at)
    return sorted(found)


def one_import(tokens: list[Token], at: int) -> Iterator[tuple[int, str, int, tuple[str, ...]]]:
    back = at - 1
    while back >= 0 and (tokens[back].string.strip(".") == "" or tokens[back].type == tokenize.NAME):
        if tokens[back].string == "from":
            break
        back -= 1
    after = []
    for token in tokens[at + 1 :]:
        if token.string == ";":
            break
        after.append(token)
    items = split([token for token in after if token.string not in "()"], ",")
    if back >= 0 and tokens[back].string == "from":
        clause = "".join(token.string for token in tokens[back + 1 : at])
        module = clause.lstrip(".")
        names = tuple(item[0].string for item in items if item)
        yield tokens[back].start[0], module, len(clause) - len(module), names
        return
    for item in items:
        words = [token.string for token in item]
        dotted = "".join(words[: words.index("as")] if "as" in words else words)
        yield item[0].start[0], dotted, 0, ()


def split(tokens: list[Token], separator: str) -> list[list[Token]]:
    """At separators outside of any brackets; an empty last part is dropped."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        if token.type == tokenize.OP and token.string in "([{":
            depth += 1
        elif token.type == tokenize.OP and token.string in ")]}":
            depth -= 1
        if token.type == tokenize.OP and token.string == separator and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts if parts[-1] else parts[:-1]


def public_names(truth: Truth) -> list[tuple[str, str, int]]:
    bound: dict[str, tuple[str, int]] = {}
    every: dict[str, tuple[str, int]] = {}
    listed: list[Any] = []
    for logical in truth.logical or ():
        if any(block.kind in ("def", "class") for block in logical.blocks):
            continue
        for statement in statements(logical.tokens):
            for name, kind, line in bindings(statement):
                every.setdefault(name, (kind, line))
                if kind != "import" and not name.startswith("_"):
                    bound.setdefault(name, (kind, line))
            listed += assigned_all(statement)
    static = listed[0] if len(listed) == 1 else None
    chosen = bound if static is None else {name: value for name, value in every.items() if name in static}
    return sorted((name, kind, line) for name, (kind, line) in chosen.items())


def statements(tokens: list[Token]) -> Iterator[list[Token]]:
    """The simple statements of a logical line, and the line itself where it defines something."""
    first = tokens[0].string
    if first in ("def", "class", "async", "@"):
        yield tokens
        return
    if first in ("if", "elif", "else", "try", "except", "finally", "for", "while", "with"):
        if first == "for":
            yield tokens
        tokens = tokens[header_end(tokens) + 1 :]
    yield from filter(None, split(tokens, ";"))


def header_end(tokens: list[Token]) -> int:
    depth = lambdas = 0
    for at, token in enumerate(tokens):
        if token.type == tokenize.OP and token.string in "([{":
            depth += 1
        elif token.type == tokenize.OP and token.string in ")]}":
            depth -= 1
        elif depth == 0 and token.type == tokenize.NAME and token.string == "lambda":
            lambdas += 1
        elif depth == 0 and token.type == tokenize.OP and token.string == ":":
            if not lambdas:
                return at
            lambdas -= 1
    return len(tokens)


def bindings(tokens: list[Token]) -> Iterator[tuple[str, str, int]]:
    block = open_block(tokens)
    if block.kind == "def":
        yield block.name, "function", block.line
    elif block.kind == "class":
        yield block.name, "class", block.line
    elif tokens[0].string in ("import", "from"):
        yield from imported_names(tokens)
    elif tokens[0].string not in ("@", "for", "return", "del", "assert", "raise"):
        parts = split(tokens, "=")
        if len(parts) > 1:
            # `x: int = 1`; a colon outside brackets stands in no other target.
            parts[0] = parts[0][: header_end(parts[0])]
            for part in parts[:-1]:
                for token in target_names(part):
                    yield token.string, "value", token.start[0]


def imported_names(tokens: list[Token]) -> Iterator[tuple[str, str, int]]:
    at = next(index for index, token in enumerate(tokens) if token.string == "import")
    for item in split([token for token in tokens[at + 1 :] if token.string not in "()"], ","):
        words = [token.string for token in item]
        if words:
            yield (words[words.index("as") + 1] if "as" in words else words[0]), "import", item[0].start[0]


def target_names(tokens: list[Token]) -> Iterator[Token]:
    parts = split(tokens, ",")
    if len(parts) > 1 or (tokens and tokens[-1].string == ","):
        for part in parts:
            yield from target_names(part)
    elif tokens and tokens[0].string == "*":
        yield from target_names(tokens[1:])
    elif len(tokens) == 1 and tokens[0].type == tokenize.NAME:
        yield tokens[0]
    elif len(tokens) > 1 and tokens[0].string in "([" and closes(tokens) == len(tokens) - 1:
        yield from target_names(tokens[1:-1])


def closes(tokens: list[Token]) -> int:
    depth = 0
    for at, token in enumerate(tokens):
        if token.type == tokenize.OP and token.string in "([{":
            depth += 1
        elif token.type == tokenize.OP and token.string in ")]}":
            depth -= 1
            if depth == 0:
                return at
    return -1


def assigned_all(tokens: list[Token]) -> list[Any]:
    """One item per statement that binds `__all__`: the names, or null where it is not one plain list."""
    parts = split(tokens, "=")
    if any(len(part) == 1 and part[0].string == "__all__" for part in parts[:-1]):
        try:
            value = ast.literal_eval("(" + tokenize.untokenize([t[:2] for t in parts[-1]]) + ")")
        except (ValueError, SyntaxError):
            return [None]
        plain = isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
        return [value if plain else None]
    words = [token.string for token in tokens[:2]]
    augmented = len(words) == 2 and words[0] == "__all__" and (words[1].endswith("=") or words[1] == ":")
    looped = words == ["for", "__all__"]
    return [None] if (augmented and words[1] not in ("==", "!=", "<=", ">=")) or looped else []


class Imports:
    """Which surveyed file an import means, by Python's own path finder on each folder it could start from."""

    def __init__(self, root: str, prefix: list[str], modules: set[str]) -> None:
        self.root, self.prefix, self.modules = root, prefix, modules
        self.folders = {os.path.dirname(path) for path in modules}
        for folder in list(self.folders):
            while folder:
                folder = os.path.dirname(folder)
                self.folders.add(folder)
        self.finders: dict[str, FileFinder] = {}

    def child(self, folder: str, name: str) -> tuple[str | None, str | None] | None:
        """File and folder of submodules of one name in a folder; null if there is none."""
        finder = self.finders.get(folder)
        if finder is None:
            path = os.path.join(self.root, real(folder)) if folder else self.root
            finder = self.finders[folder] = FileFinder(path, (SourceFileLoader, [".py"]))
        spec = finder.find_spec(name) if name.isidentifier() else None
        if spec is None:
            return None
        inner = f"{folder}/{name}" if folder else name
        if spec.origin is None:
            return (None, inner) if inner in self.folders else None
        file = f"{inner}/__init__.py" if spec.submodule_search_locations else f"{inner}.py"
        if file not in self.modules:
            return (None, inner) if inner in self.folders else None
        return file, inner if spec.submodule_search_locations else None

    def follow(self, start: str, parts: list[str]) -> tuple[bool, str | None, str | None]:
        """Whether the first part is there; the deepest file; the folder of submodules if the whole name was found."""
        own = f"{start}/__init__.py" if start else "__init__.py"
        file = own if not parts and own in self.modules else None
        folder: str | None = start
        for index, part in enumerate(parts):
            got = self.child(folder, part) if folder is not None else None
            if got is None:
                return index > 0, file, None
            file, folder = got[0] or file, got[1]
        return True, file, folder

    def targets(self, importer: str, module: str, level: int, names: tuple[str, ...]) -> set[str]:
        parts = module.split(".") if module else []
        if level:
            folder = os.path.dirname(importer)
            for _ in range(level - 1):
                if not folder:
                    return set()
                folder = os.path.dirname(folder)
            _, file, inner = self.follow(folder, parts)
        else:
            file, inner = self.absolute(importer, parts)
        found = set() if names or file is None else {file}
        for name in names:
            got = self.child(inner, name) if inner is not None else None
            target = got[0] if got and got[0] else file
            if target is not None:
                found.add(target)
        return found - {importer}

    def absolute(self, importer: str, parts: list[str]) -> tuple[str | None, str | None]:
        if self.prefix and parts[: len(self.prefix)] == self.prefix:
            return self.follow("", parts[len(self.prefix) :])[1:]
        folder = importer
        while folder:
            folder = os.path.dirname(folder)
            if self.is_package(folder):
                continue
            source = f"{folder}/src" if folder else "src"
            for base in (folder, source):
                if base == source and (source not in self.folders or self.is_package(source)):
                    continue
                there, file, inner = self.follow(base, parts)
                if there:
                    return file, inner
        return None, None

    def is_package(self, folder: str) -> bool:
        return (f"{folder}/__init__.py" if folder else "__init__.py") in self.modules


class Check:
    def __init__(self, report: dict[str, Any], root: str) -> None:
        self.report, self.root = report, os.path.realpath(root)
        self.lies: list[str] = []
        self.truths: dict[str, Truth] = {}
        self.facts = 0

    def tell(self, kind: str, where: str, text: object = "") -> None:
        self.lies.append(f"{kind}: {where}: {text}")

    def same(self, kind: str, where: str, claimed: object, actual: object) -> None:
        self.facts += 1
        if claimed != actual:
            self.tell(kind, where, f"claimed {str(claimed)[:300]!r}, but it is {str(actual)[:300]!r}")

    def truth(self, path: str) -> Truth:
        if path not in self.truths:
            self.truths[path] = look(self.root, path)
        return self.truths[path]

    def run(self) -> list[str]:
        report = self.report
        self.same("rules", "rules", report["rules"], RULES)
        self.same("root", "root", report["root"], self.root)
        self.check_coverage()
        self.quotes(report, "")
        for file in report["files"]:
            self.check_file(file)
        for problem in report["problems"]:
            self.same("problem", problem["path"], problem["problem"], self.truth(problem["path"]).problem)
        edges = self.check_edges()
        self.check_unused(edges)
        self.check_summary()
        return self.lies

    def check_coverage(self) -> None:
        files, skipped = walk(self.root)
        told = {each["path"] for each in self.report["files"]} | {each["path"] for each in self.report["problems"]}
        told |= set(self.report["lost"])
        seen = {real(path) for path in told}
        missing = files - seen
        if len(missing) != self.report["left_out"]:
            for path in sorted(missing):
                self.tell("coverage", repr(path), "not in the report")
        for path in sorted(seen - files):
            self.tell("coverage", repr(path), "in the report, but not in the tree")
        claimed = {real(each["folder"]) for each in self.report["skipped"]}
        self.same("skipped", "skipped", sorted(claimed), sorted(skipped))
        paths = [each["path"] for each in self.report["files"]]
        self.same("coverage", "files", len(paths), len(set(paths)))

    def quotes(self, value: Any, where: str) -> None:
        """Every object with a path and a line, wherever it stands."""
        if isinstance(value, list):
            for index, item in enumerate(value):
                self.quotes(item, f"{where}/{index}")
        elif isinstance(value, dict):
            if "path" in value and "line" in value:
                lines = self.truth(value["path"]).lines
                line = value["line"]
                actual = lines[line - 1][:QUOTE] if 1 <= line <= len(lines) else None
                self.same("text", f"{where} {value['path']}:{line}", value["text"], actual)
            for key, item in value.items():
                self.quotes(item, f"{where}/{key}")

    def check_file(self, file: dict[str, Any]) -> None:
        path, truth = file["path"], self.truth(file["path"])
        if truth.problem not in (None, "syntax"):
            self.tell("file", path, f"claimed as read, but {truth.problem}")
            return
        problems = [each["problem"] for each in self.report["problems"] if each["path"] == path]
        self.same("problem", path, problems, [truth.problem] if truth.problem else [])
        self.same("size", path, file["size_bytes"], os.lstat(os.path.join(self.root, real(path))).st_size)
        self.same("digest", path, file["sha256"], sha256(truth.data).hexdigest())
        self.same("lines", path, file["line_count"], len(truth.lines))
        for kind in ("names", "imports", "functions", "marks", "mentions"):
            for each in file[kind]:
                self.same("path", f"{path} {kind}", each["path"], path)
        self.check_marks(file, truth)
        self.check_mentions(file)
        self.check_names(file, truth)
        self.check_functions(file, truth)
        self.check_entry(file, truth)
        made = [(each["line"], each["module"], each["level"], tuple(each["names"])) for each in file["imports"]]
        self.some("import", file, "imports", sorted(made), imports_of(truth))
        module = None
        if path.endswith((".py", ".pyw")):
            parts = [*self.report["prefix"], *path.rpartition(".")[0].split("/")]
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "__init__"
        self.same("module", path, file["module"], module)

    def some(self, kind: str, file: dict[str, Any], key: str, claimed: list[Any], actual: list[Any]) -> None:
        """Claimed and actual are the same, but for so many as the report says it leaves out."""
        self.facts += len(claimed)
        for extra in (Counter(claimed) - Counter(actual)).elements():
            self.tell(kind, file["path"], f"claimed {extra!r}, which is not there")
        missing = list((Counter(actual) - Counter(claimed)).elements())
        if len(missing) != file["omitted"].get(key, 0):
            self.tell(kind, file["path"], f"{len(missing)} not told, such as {missing[:3]!r}")

    def check_marks(self, file: dict[str, Any], truth: Truth) -> None:
        actual = []
        for number, line in enumerate(truth.lines, start=1):
            words = [word for word in re.split(r"\W+", line[:QUOTE]) if word in ("TODO", "FIXME", "XXX")]
            if words:
                actual.append((number, words[0]))
        self.some("mark", file, "marks", [(each["line"], each["mark"]) for each in file["marks"]], actual)

    def check_mentions(self, file: dict[str, Any]) -> None:
        for each in file["mentions"]:
            word, target = each["word"], each["target"]
            stem = target.removesuffix(".py").removesuffix("/__init__").rpartition("/")[2]
            names = target.endswith(word) if word.endswith(".py") else stem in word.split(".")[-2:]
            shown = word in each["text"] and self.truth(target).problem in (None, "syntax")
            self.same("mention", f"{file['path']}:{each['line']} {word}", names and shown, True)

    def check_names(self, file: dict[str, Any], truth: Truth) -> None:
        claimed = sorted((each["name"], each["kind"], each["line"]) for each in file["names"])
        self.some("name", file, "names", claimed, public_names(truth))

    def check_functions(self, file: dict[str, Any], truth: Truth) -> None:
        actual = [
            (each.line - each.last - 1, each.line, truth.qualified[id(each)], each.last) for each in truth.functions
        ]
        longest = sorted(actual, key=lambda each: each[:2])[:TOP]
        claimed = [(-each["length_lines"], each["line"], each["name"], each["last_line"]) for each in file["functions"]]
        self.same("function", file["path"], claimed, longest)
        self.same("function_count", file["path"], file["function_count"], len(actual))

    def check_entry(self, file: dict[str, Any], truth: Truth) -> None:
        guards = [
            logical.tokens[0].start[0]
            for logical in truth.logical or ()
            if not logical.blocks and [token.string for token in logical.tokens[:2]] == ["if", "__name__"]
        ]
        if not guards and truth.lines and truth.lines[0].startswith("#!"):
            guards = [1]
        self.same("entry", file["path"], file["entry"] and file["entry"]["line"], guards[0] if guards else None)
        doc = None
        if truth.logical and not truth.logical[0].blocks:
            first = truth.logical[0].tokens
            if all(token.type == tokenize.STRING and not re.match("(?i)[rb]*b|f", token.string) for token in first):
                for line in range(first[0].start[0], first[-1].end[0] + 1):
                    if re.search(r"[^\W_]", truth.lines[line - 1][:QUOTE].lstrip(" rRuU'\"")):
                        doc = line
                        break
        self.same("doc", file["path"], file["doc"] and file["doc"]["line"], doc)

    def check_edges(self) -> set[tuple[str, str]]:
        modules = {each["path"] for each in self.report["files"] if each["path"].endswith((".py", ".pyw"))}
        resolver = Imports(self.root, self.report["prefix"], modules)
        actual: dict[tuple[str, str], int] = {}
        for path in sorted(modules):
            for line, module, level, names in imports_of(self.truth(path))[:USES]:
                for target in resolver.targets(path, module, level, names):
                    actual.setdefault((path, target), line)
        claimed = {(each["path"], each["target"]): each["line"] for each in self.report["edges"]}
        self.same("edge", "edges", len(self.report["edges"]), len(claimed))
        for pair in sorted(claimed.keys() | actual.keys()):
            self.same("edge", " -> ".join(pair), claimed.get(pair), actual.get(pair))
        return set(actual)

    def check_unused(self, edges: set[tuple[str, str]]) -> None:
        reached = {target for _, target in edges}
        reached |= {mention["target"] for file in self.report["files"] for mention in file["mentions"]}
        unclear = any({"imports", "mentions"} & file["omitted"].keys() for file in self.report["files"])
        actual = []
        for file in () if unclear else self.report["files"]:
            path = file["path"]
            *folders, name = path.split("/")
            stem, dot, ending = name.rpartition(".")
            test = any(
                part in ("test", "tests") or part.startswith("test_") or part.endswith("_test")
                for part in (each.partition(".")[0] for each in (*folders, name))
            )
            tool = stem in TOOL_FILES or "migrations" in folders or not stem.isidentifier()
            if dot and ending == "py" and not (path in reached or test or tool or file["entry"]):
                actual.append(path)
        claimed = [each["path"] for each in self.report["unused"]]
        for path in sorted(set(claimed) ^ set(actual)):
            self.same("unused", path, path in claimed, path in actual)
        by_path = {file["path"]: file for file in self.report["files"]}
        for each in self.report["unused"]:
            file = by_path.get(each["path"], {})
            for key in ("module", "size_bytes", "line_count"):
                self.same("unused", each["path"], each[key], file.get(key))

    def check_summary(self) -> None:
        report, summary = self.report, self.report["summary"]
        files = report["files"]
        modules = [each for each in files if each["module"] is not None]
        longest = sorted(
            (each for file in files for each in file["functions"]),
            key=lambda each: (-each["length_lines"], each["path"], each["line"]),
        )
        largest = sorted(files, key=lambda each: (-each["size_bytes"], each["path"]))
        actual = {
            "root": self.root,
            "file_count": len(files),
            "module_count": len(modules),
            "package_count": sum(each["path"].split("/")[-1] == "__init__.py" for each in modules),
            "line_count": sum(each["line_count"] for each in files),
            "size_bytes": sum(each["size_bytes"] for each in files),
            "edge_count": len(report["edges"]),
            "public_name_count": sum(len(each["names"]) + each["omitted"].get("names", 0) for each in files),
            "function_count": sum(each["function_count"] for each in files),
            "mark_count": sum(len(each["marks"]) + each["omitted"].get("marks", 0) for each in files),
            "unused_count": len(report["unused"]),
            "problem_count": len(report["problems"]),
            "lost_count": len(report["lost"]),
            "largest": [{k: e[k] for k in ("path", "size_bytes", "sha256", "line_count")} for e in largest[:TOP]],
            "longest": longest[:TOP],
            "unused": report["unused"][: len(summary["unused"])],
        }
        for key, value in actual.items():
            self.same("summary", key, summary[key], value)
        self.same("summary", "keys", sorted(summary), sorted([*actual, "problems"]))
        for each in summary["problems"]:
            self.same("summary", each["path"], each in report["problems"], True)
        if any(self.truth(each["path"]).problem == "syntax" for each in report["problems"]):
            self.same("degraded", "degraded", "syntax" in (report["degraded"] or ""), True)


def walk(root: str) -> tuple[set[str], set[str]]:
    files: set[str] = set()
    skipped: set[str] = set()
    failed: list[OSError] = []
    for folder, folders, names in os.walk(root, onerror=failed.append):
        relative = folder[len(root) :].lstrip("/")
        for name in list(folders):
            full, inner = os.path.join(folder, name), f"{relative}/{name}".lstrip("/")
            if os.path.islink(full):
                files.add(inner)
                folders.remove(name)
            elif skip(full, inner):
                skipped.add(inner)
                folders.remove(name)
        files |= {f"{relative}/{name}".lstrip("/") for name in names}
    skipped |= {str(error.filename)[len(root) :].lstrip("/") for error in failed}
    return files, skipped


def skip(full: str, inner: str) -> bool:
    name = os.path.basename(full)
    by_name = name in SKIPPED or name.endswith((".egg-info", ".dist-info"))
    marked = any(os.path.lexists(os.path.join(full, marker)) for marker in ("CACHEDIR.TAG", "pyvenv.cfg"))
    return by_name or marked or inner.count("/") >= 40


def check(report: dict[str, Any], root: str) -> tuple[list[str], int]:
    """What is not true in a report, and how many claims were compared."""
    checked = Check(report, root)
    return checked.run(), checked.facts


def main() -> int:
    with open(sys.argv[1], encoding="utf-8") as file:
        report = json.load(file)
    lies, facts = check(report, sys.argv[2])
    for lie in lies[:200]:
        print(lie.encode("utf-8", "backslashreplace").decode())
    print(f"{facts:,} claims compared, {len(lies):,} not true")
    return 1 if lies else 0


if __name__ == "__main__":
    sys.exit(main())
