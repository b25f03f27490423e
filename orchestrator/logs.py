"""Log files of child processes: pumped from a pipe, rotated by size, so that no server can fill the disk with words."""

import os
import threading
from pathlib import Path
from typing import IO

MAX_BYTES = 10_000_000
KEPT_FILES = 3


class RotatingLog:
    """A file of at most `max_bytes`, with `kept` older ones beside it as `.1` (youngest) to `.<kept>`."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, kept: int = KEPT_FILES) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._kept = kept

    def append(self, data: bytes) -> None:
        """Add to the file; a full disk loses log lines rather than the process that writes them."""
        try:
            if self.path.exists() and self.path.stat().st_size + len(data) > self._max_bytes:
                self._rotate()
            with self.path.open("ab") as file:
                file.write(data)
        except OSError:
            return

    def size(self) -> int:
        """Bytes in the current file."""
        return self.path.stat().st_size if self.path.exists() else 0

    def tail(self, max_bytes: int = 4000, since: int = 0) -> str:
        """The end of the current file as text, no further back than byte `since`; empty where there is none."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - max_bytes, since if since <= size else 0))
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def _rotate(self) -> None:
        for number in range(self._kept, 0, -1):
            older = self._numbered(number - 1)
            if older.exists():
                older.replace(self._numbered(number))

    def _numbered(self, number: int) -> Path:
        return self.path if number == 0 else self.path.with_name(f"{self.path.name}.{number}")


def pump(source: IO[bytes], log: RotatingLog) -> threading.Thread:
    """Start copying `source` to `log` until every writer has closed it."""

    def copy() -> None:
        with source:
            while data := os.read(source.fileno(), 65_536):
                log.append(data)

    thread = threading.Thread(target=copy, name=f"log {log.path.name}", daemon=True)
    thread.start()
    return thread
