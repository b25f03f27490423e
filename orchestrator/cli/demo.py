"""The command that shows the whole system at work."""

from pathlib import Path

from orchestrator.demo import run_demo


def demo(path: Path | None = None, *, output: Path | None = None) -> int:
    """Survey a directory of source code with everything embedded, and show the report.

    Args:
        path: The directory to survey (this project's own tree).
        output: Where the report goes (build/survey-NAME).
    """
    return run_demo(path, output=output)
