"""`orchestrator demo` as a person runs it: everything embedded, a report, nothing left."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from .dev_process import Dev, running, until

SOURCE = '''
"""A module with something to find."""
import json


def load(text: str) -> object:
    # TODO: say what is wrong
    return json.loads(text)
'''


class Demo(Dev):
    """Its process, in a folder of its own; temporary files go there too."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        (folder / "tmp").mkdir()
        super().__init__(folder / "tmp" / "unused", "--output", str(folder / "report"), *arguments)

    def command(self) -> list[str]:
        return [sys.executable, "-m", "orchestrator", "demo", *self.arguments]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "TMPDIR": str(self.data_dir.parent)}


def sources(folder: Path) -> Path:
    place = folder / "sources"
    place.mkdir()
    (place / "loads.py").write_text(SOURCE)
    (place / "uses.py").write_text("from loads import load\n\nprint(load('[]'))\n")
    return place


def test_a_demo_ends_with_tables_and_a_report_and_leaves_nothing(tmp_path: Path) -> None:
    demo = Demo(tmp_path, str(sources(tmp_path)))
    demo.launch()
    assert demo.process.wait(100) == 0, demo.output()
    shown = demo.output()
    assert "task succeeded" in shown
    assert "gate verdict: pass" in shown
    assert "seconds" in shown
    assert f"report: {tmp_path / 'report' / 'report.html'}" in shown
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert "loads.py" in json.dumps(report)
    assert {"report.md", "report.html", "graph.svg"} <= {path.name for path in (tmp_path / "report").iterdir()}
    assert [path.name for path in (tmp_path / "tmp").iterdir() if path.name != "dev.out"] == []


def test_an_interrupted_demo_ends_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    demo = Demo(tmp_path, str(sources(tmp_path)))
    demo.launch()
    until(lambda: "surveying" in demo.output(), 60)
    family = demo.descendants()
    assert demo.stop(signal.SIGINT) == 130
    until(lambda: not running(family), 5)
    assert [path.name for path in (tmp_path / "tmp").iterdir() if path.name != "dev.out"] == []


def test_a_folder_that_is_not_there_is_bad_use(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "orchestrator", "demo", str(tmp_path / "absent")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 2
    assert "there is no such folder to survey" in done.stderr
