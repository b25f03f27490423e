"""The user's own editor on a JSON object: $VISUAL, $EDITOR, or vi."""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from contracts.errors import InvalidInput, OrchestratorError
from orchestrator.cli import arguments


def edit_object(value: Any) -> dict[str, Any]:
    """The object as it was saved. Raises `InvalidInput` without a terminal, or where nothing was changed."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InvalidInput(
            "without a terminal there is no editor: give the new input with --input @file", field="--input"
        )
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "input.json"
        before = json.dumps(value, indent=2, ensure_ascii=False)
        path.write_text(before, encoding="utf-8")
        try:
            status = subprocess.run([*shlex.split(command), str(path)], check=False).returncode
        except (OSError, ValueError) as error:
            raise OrchestratorError(f"the editor {command!r} does not start ({error}); set EDITOR") from None
        if status != 0:
            raise OrchestratorError(f"the editor {command!r} ended with {status}; nothing was changed")
        if path.read_text(encoding="utf-8").strip() == before:
            raise InvalidInput("nothing was changed", field="--input")
        return arguments.read_object(f"@{path}", "--input")
