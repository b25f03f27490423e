"""Reads files under a root: regular files only, bounded, and never through a link out of it."""

import codecs
import errno
import hashlib
import io
import os
import re
import stat
import tokenize
from dataclasses import dataclass

from workers.gates.facts import TEXT_LIMIT, ProblemCode

READ_LIMIT_BYTES = 2_000_000
PYTHON_SUFFIXES = (".py", ".pyi", ".pyw")
# Codecs that turn text into other text: what they give is not what a person sees in the file, and some of them take
# quadratic time. Python itself would accept them in a coding line.
REFUSED_CODECS = frozenset({"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7"})

_ESCAPE = re.compile(r"\\(\\|x[0-9a-f]{2})")
_UNSPELLABLE = re.compile("[\\\\\x00-\x1f\x7f\udc80-\udcff]")


class Unreadable(Exception):
    """A file that cannot be read. `code` says why; `text` is safe to show."""

    def __init__(self, code: ProblemCode, text: str) -> None:
        super().__init__(text)
        self.code: ProblemCode = code
        self.text = text


@dataclass(frozen=True)
class Source:
    """One file as read: its bytes, and its text by the encoding it declares (Python) or as UTF-8."""

    data: bytes
    text: str
    lines: tuple[str, ...]

    def quote(self, line: int) -> str:
        """The text of a line counted from 1, cut as facts cut it. Raises `IndexError`."""
        if line < 1:
            raise IndexError(line)
        return self.lines[line - 1][:TEXT_LIMIT]


def spell(path: str) -> str:
    """A path as JSON can hold it; `unspell` gives it back."""

    def escape(match: re.Match[str]) -> str:
        character = match.group()
        return "\\\\" if character == "\\" else f"\\x{ord(character) & 0xFF:02x}"

    return _UNSPELLABLE.sub(escape, path)


def unspell(spelled: str) -> str:
    """Raises `ValueError` for what `spell` cannot have made."""

    def restore(match: re.Match[str]) -> str:
        if match.group(1) == "\\":
            return "\\"
        byte = int(match.group(1)[1:], 16)
        return chr(byte) if byte < 0x80 else chr(0xDC00 + byte)

    path = _ESCAPE.sub(restore, spelled)
    if spell(path) != spelled:
        raise ValueError("not a path as facts spell it")
    return path


def is_python(path: str) -> bool:
    return path.endswith(PYTHON_SUFFIXES)


def read_bytes(root: str, spelled: str) -> bytes:
    """All bytes of a regular file under `root`, an absolute path. Raises `Unreadable`."""
    descriptor = _open_inside(root, spelled)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("not_regular", "not a regular file")
        data = b"" if status.st_size > READ_LIMIT_BYTES else file.read(READ_LIMIT_BYTES + 1)
        if status.st_size > READ_LIMIT_BYTES or len(data) > READ_LIMIT_BYTES:
            size = max(status.st_size, len(data))
            raise Unreadable("too_large", f"{size} bytes; files above {READ_LIMIT_BYTES} are not read")
        return data


def decode(spelled: str, data: bytes) -> Source:
    """Raises `Unreadable` with `nul_bytes` or `encoding`."""
    if b"\0" in data:
        raise Unreadable("nul_bytes", "holds NUL bytes, so it is not text")
    encoding = _declared_encoding(data) if is_python(spelled) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except (UnicodeError, LookupError) as error:
        raise Unreadable("encoding", f"cannot be decoded as {encoding}") from error
    if "\0" in text:
        raise Unreadable("nul_bytes", "holds NUL characters, so it is not text")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return Source(data, text, split_lines(text))


def read_source(root: str, spelled: str) -> Source:
    """Raises `Unreadable`."""
    return decode(spelled, read_bytes(root, spelled))


def split_lines(text: str) -> tuple[str, ...]:
    """The lines of a text whose newlines are all `\\n`; a last empty one does not count."""
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return tuple(lines)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _declared_encoding(data: bytes) -> str:
    """What Python would decode the file with (PEP 263): a byte order mark, a coding line, or UTF-8."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        name = codecs.lookup(encoding).name
    except (SyntaxError, LookupError, UnicodeError) as error:
        raise Unreadable("encoding", "declares an encoding that does not exist or does not fit its bytes") from error
    if name.replace("_", "-") in REFUSED_CODECS:
        raise Unreadable("encoding", f"declares the encoding {name}, which is not read")
    return encoding


def _open_inside(root: str, spelled: str) -> int:
    """A file descriptor, opened part by part so that no link on the way can lead out of `root`."""
    try:
        parts = unspell(spelled).split("/")
    except ValueError as error:
        raise Unreadable("missing", str(error)) from error
    if any(part in ("", ".", "..") for part in parts):
        raise Unreadable("missing", "not a path inside the root")
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            inner = _open(part, os.O_DIRECTORY, folder)
            os.close(folder)
            folder = inner
        # Opening a pipe would wait for its other end, and opening a device can have effects: look first.
        try:
            status = os.stat(parts[-1], dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            raise _unreadable(error) from error
        if stat.S_ISLNK(status.st_mode):
            raise _link_problem(root, parts)
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("not_regular", f"a {_kind(status.st_mode)}, not a regular file")
        return _open(parts[-1], os.O_NONBLOCK, folder)
    finally:
        os.close(folder)


def _open(part: str, flags: int, folder: int) -> int:
    try:
        return os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=folder)
    except (OSError, ValueError) as error:
        raise _unreadable(error) from error


def _unreadable(error: OSError | ValueError) -> Unreadable:
    number = getattr(error, "errno", None)
    if number in (errno.EACCES, errno.EPERM):
        return Unreadable("denied", "no permission to read it")
    return Unreadable("missing", "there is no such file inside the root")


def _link_problem(root: str, parts: list[str]) -> Unreadable:
    try:
        target = os.path.realpath(os.path.join(root, *parts), strict=True)
    except OSError:
        return Unreadable("symlink_broken", "a link that leads nowhere, or in a circle")
    if os.path.commonpath([root, target]) == root:
        return Unreadable("symlink", "a link to something inside the root; only its target is read")
    return Unreadable("symlink_outside", "a link that leads out of the root; it is not followed")


def _kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISDIR, "folder"),
        (stat.S_ISFIFO, "pipe"),
        (stat.S_ISSOCK, "socket"),
        (stat.S_ISCHR, "device"),
        (stat.S_ISBLK, "device"),
    ):
        if test(mode):
            return name
    return "special file"
