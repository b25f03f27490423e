"""Makes a folder of everything that can be wrong with source files: `python tests/checkers/hostile.py FOLDER`.

`generate` returns what each file must be reported as: a problem's code, or null for one that reads well.
"""

import os
import shutil
import sys
from pathlib import Path

BIG_BYTES = 5_000_000

PYTHON: dict[str, tuple[bytes, str | None]] = {
    "empty.py": (b"", None),
    "good.py": (b"import os\n\n\ndef visible():\n    return os.name  # TODO: more\n", None),
    "no_last_newline.py": (b"VALUE = 1", None),
    "only_newlines.py": (b"\n\n\n", None),
    "does_not_parse.py": (b"def broken(:\n    pass  # TODO mend\n", "syntax"),
    "python2.py": (b"print 'hello'\nexec 'x'\n", "syntax"),
    "bad_indent.py": (b"def f():\n\tif 1:\n        pass\n", "syntax"),
    "unclosed.py": (b'x = """never closed\n', "syntax"),
    "parentheses.py": (b"(" * 3000 + b")" * 3000, "syntax"),
    "latin1_declared.py": (b"# -*- coding: latin-1 -*-\nNAME = '\xe9'\n", None),
    "latin1_undeclared.py": (b"NAME = '\xe9'\n", "encoding"),
    "lying_utf8.py": (b"# -*- coding: utf-8 -*-\nNAME = '\xff\xfe'\n", "encoding"),
    "lying_bom.py": (b"\xef\xbb\xbf# -*- coding: latin-1 -*-\nNAME = 1\n", "encoding"),
    "no_such_encoding.py": (b"# -*- coding: klingon -*-\nNAME = 1\n", "encoding"),
    "rot13.py": (b"# -*- coding: rot13 -*-\nQRS = 1\n", "encoding"),
    "escape_codec.py": (b"# -*- coding: unicode_escape -*-\nNAME = 1\\nOTHER = 2\n", "encoding"),
    "half_surrogate.py": (b"# -*- coding: utf-7 -*-\nNAME = '+2AA-'\n", "encoding"),
    "utf16.py": ("NAME = 1\n".encode("utf-16"), "nul_bytes"),
    "nul_bytes.py": (b"NAME = 1\n\0\nOTHER = 2\n", "nul_bytes"),
    "bom.py": (b"\xef\xbb\xbfNAME = 1\n\n\ndef after_bom():\n    pass\n", None),
    "form_feed.py": (b"FIRST = 1\n\x0c\nSECOND = 2  # TODO\x0cone line still\nTHIRD = 3\n", None),
    "separators.py": (
        "A = '\u2028 \u2029 \x85 \x1c \x0b'\nB = 2  # FIXME: after\u2028the separators\nC = 3\n".encode(),
        None,
    ),
    "crlf.py": (b"ONE = 1\r\nTWO = 2\r\n\r\ndef three():\r\n    pass\r\n", None),
    "lone_cr.py": (b"ONE = 1\rTWO = 2\rdef three():\r    pass\r", None),
    "mixed_newlines.py": (b"ONE = 1\r\rTWO = 2\r\n\nTHREE = 3\n\rFOUR = 4\n", None),
    "markup.py": (b"def f():  # TODO: <script>alert(1)</script> ]]> --> | `x` </pre>\n    pass\n", None),
    "continued.py": (b"LONG = \\\n    1\nfrom os import (\n    path,\n    sep,\n)\n", None),
    "escapes.py": (b"PATTERN = '\\d'\nassert (1, 2)\nX = 1 is 1\n", None),
    "all_static.py": (b"import os\n__all__ = ['kept', 'os']\ndef kept(): pass\ndef hidden(): pass\n", None),
    "all_dynamic.py": (b"__all__ = [n for n in dir()]\n__all__ += ['x']\ndef shown(): pass\n", None),
    "match.py": (b"match = 1\nmatch match:\n    case 1:\n        inside = 2\n", None),
    "deep_expression.py": (b"x = " + b"-" * 20_000 + b"1\n", "syntax"),
    "long_line.py": (b"x = '" + b"a" * 200_000 + b"'  # TODO at the end\n# TODO " + b"b" * 5000 + b"\n", None),
    "too_big.py": (b"x = 1\n" * (BIG_BYTES // 6 + 1), "too_large"),
    "pkg/__init__.py": (b"from . import b\nfrom .a import thing\n", None),
    "pkg/a.py": (b"from . import b\nthing = b\n", None),
    "pkg/b.py": (b"from .a import thing\nfrom ..... import far\nfrom .missing import gone\nimport pkg.a\n", None),
    "pkg/lonely.py": (b"thing = 1\n", None),
    "importer.py": (b"import pkg.b as b, good\ntry:\n    import absent\nexcept ImportError:\n    pass\n", None),
}

OTHER: dict[str, tuple[bytes, str | None]] = {
    "notes.md": (b"# Notes\n\nTODO: write them | `pipes` <b>\n", None),
    "latin1.txt": (b"caf\xe9\n", "encoding"),
    "picture.png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "nul_bytes"),
    "no suffix": (b"#!/bin/sh\necho XXX\n", None),
    "empty.txt": (b"", None),
    "weird\nname.py": (b"WEIRD = 1\n", None),
    "<b>&\"'|`name.py": (b"MARKED = 1\n", None),
    "back\\slash\\x41.py": (b"BACK = 1\n", None),
    "tab\tname.py": (b"TAB = 1\n", None),
    "-dash.py": (b"DASH = 1\n", None),
    "\u202eyp.txt": (b"right to left\n", None),
    "name with spaces.py": (b"SPACES = 1\n", None),
}


def generate(folder: Path) -> dict[str, str | None]:
    """Fill an empty or absent folder. Raises `FileExistsError` where it holds something."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty")
    expected: dict[str, str | None] = {}
    for name, (data, problem) in {**PYTHON, **OTHER}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        expected[name] = problem
    expected.update(_not_utf8(folder))
    expected.update(_links(folder))
    expected.update(_special(folder))
    expected.update(_unreadable(folder))
    _skipped(folder)
    _deep(folder)
    return expected


def _not_utf8(folder: Path) -> dict[str, str | None]:
    name = b"not-utf8-\xff\xe9.py"
    try:
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:
            file.write(b"RAW = 1\n")
    except OSError:  # some file systems keep only UTF-8 names
        return {}
    return {os.fsdecode(name): None}


def _links(folder: Path) -> dict[str, str | None]:
    outside = folder.parent / (folder.name + "-outside.py")
    outside.write_text("SECRET = 1\n")
    for name, target in {
        "loop_a": "loop_b",
        "loop_b": "loop_a",
        "itself.py": "itself.py",
        "dangling.py": "nowhere.py",
        "inside_link.py": "good.py",
        "escape.py": str(outside.resolve()),
        "escape_up.py": "../" + outside.name,
        "device.py": "/dev/zero",
        "folder_loop": ".",
        "folder_out": "/",
    }.items():
        (folder / name).symlink_to(target)
    return {
        **dict.fromkeys(("loop_a", "loop_b", "itself.py", "dangling.py"), "symlink_broken"),
        **dict.fromkeys(("inside_link.py", "folder_loop"), "symlink"),
        **dict.fromkeys(("escape.py", "escape_up.py", "device.py", "folder_out"), "symlink_outside"),
    }


def _special(folder: Path) -> dict[str, str | None]:
    os.mkfifo(folder / "pipe.py")
    return {"pipe.py": "not_regular"}


def _unreadable(folder: Path) -> dict[str, str | None]:
    (folder / "secret.py").write_text("SECRET = 1\n")
    (folder / "secret.py").chmod(0)
    (folder / "closed").mkdir()
    (folder / "closed" / "inner.py").write_text("INNER = 1\n")
    (folder / "closed").chmod(0)
    if os.access(folder / "secret.py", os.R_OK):  # root reads everything
        return {"secret.py": None, "closed/inner.py": None}
    return {"secret.py": "denied", "closed": "denied"}


def _skipped(folder: Path) -> None:
    for name in (".git", "__pycache__", "node_modules", "venv"):
        (folder / name).mkdir()
        (folder / name / "never_listed.py").write_text("NEVER = 1\n")
    (folder / "venv" / "pyvenv.cfg").write_text("home = /usr\n")


def _deep(folder: Path) -> None:
    """Deeper than a path may be long: made and entered one level at a time."""
    descriptor = os.open(folder, os.O_RDONLY)
    for level in range(150):
        os.mkdir("deep" + "d" * 36, dir_fd=descriptor)
        inner = os.open("deep" + "d" * 36, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
        if level in (2, 149):
            file = os.open("bottom.py", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor)
            os.write(file, b"BOTTOM = 1\n")
            os.close(file)
    os.close(descriptor)


def open_up(folder: Path) -> None:
    """Give permissions back, so that the folder can be removed."""
    for path in (folder / "closed", folder / "secret.py"):
        if path.exists():
            path.chmod(0o700)


def remove(folder: Path) -> None:
    open_up(folder)
    shutil.rmtree(folder)


if __name__ == "__main__":
    made = generate(Path(sys.argv[1]))
    print(f"{len(made)} files, {sum(problem is not None for problem in made.values())} with a problem")
