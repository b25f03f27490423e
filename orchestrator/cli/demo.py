"""`demo`: what `make demo` runs."""

from pathlib import Path

from orchestrator.demo import run_demo


def demo(path: Path | None = None, *, output: Path | None = None) -> int:
    """Survey a directory of source code with everything embedded, and show where the report is.

    Args:
        path: The directory; this project's own tree unless given.
        output: Where the report goes.
    """
    return run_demo(path, output=output)
