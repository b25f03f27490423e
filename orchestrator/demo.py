"""`orchestrator demo`: the whole system for one task - start it, survey a folder of source code, show what came out."""

import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import contracts
from contracts.errors import InvalidInput, OrchestratorError
from orchestrator.cli.download import save_result
from orchestrator.client import ENDED, Client
from orchestrator.dev.options import Options
from orchestrator.dev.server import DevServer
from shared_state.shapes import Task, TaskDetail

TEAM = "survey"
INTERRUPTED = 130
_LOOK_SECONDS = 0.2
_LINE_SECONDS = 2.0
_FIGURES = {
    "file_count": "files",
    "module_count": "modules",
    "line_count": "lines",
    "public_name_count": "public names",
    "edge_count": "imports between modules",
    "mark_count": "TODO marks",
    "problem_count": "files with problems",
}


def run_demo(path: Path | None = None, *, output: Path | None = None) -> int:
    """Survey `path` (the project's own tree) with everything embedded; the report goes to `output` (build/survey-NAME).

    Returns 0 if the task succeeded, 1 if not, 130 when interrupted. Raises `InvalidInput` for a path that is no folder
    and what `DevServer` raises. Leaves nothing running; on failure its data directory stays, for its logs.
    """
    folder = (path or own_tree()).absolute()
    if not folder.is_dir():
        raise InvalidInput(f"{folder}: there is no such folder to survey", field="path")
    place = (output or Path("build") / f"survey-{folder.resolve().name or 'root'}").absolute()
    console = Console(highlight=False, soft_wrap=True)
    data_dir = Path(tempfile.mkdtemp(prefix="orchestrator-demo-"))
    succeeded = False
    try:
        code = _run(console, folder, place, data_dir)
        succeeded = code in (0, INTERRUPTED)
    finally:
        if succeeded:
            shutil.rmtree(data_dir, ignore_errors=True)
        else:
            console.print(f"logs: {data_dir / 'logs'}", markup=False)
    return code


def own_tree() -> Path:
    """The checkout this runs from, or where the project is installed only its own package."""
    root = Path(contracts.__file__).parents[1]
    return root if (root / "pyproject.toml").is_file() else root / "orchestrator"


def _run(console: Console, folder: Path, place: Path, data_dir: Path) -> int:
    stopping = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    started = time.monotonic()
    options = Options(data_dir=data_dir, port=0, flower=False, embedded=True)
    try:
        console.print("starting PostgreSQL, Redis, the API, the loops and two workers ...")
        with (
            DevServer(options, lambda line: console.print(line, markup=False), stopping, stopping) as server,
            Client(server.settings.api_url, server.key) as client,
        ):
            ready = time.monotonic()
            console.print(f"ready after {ready - started:.1f} s; surveying {folder}", markup=False)
            task_id = client.submit(TEAM, goal=f"survey {folder.name}", input={"path": str(folder)})["id"]
            task = _follow(console, client, task_id, server.tick, stopping)
            if task is None:
                return INTERRUPTED
            return _show(console, client, task, place, seconds=time.monotonic() - ready)
    except OrchestratorError:
        if stopping.is_set():
            return INTERRUPTED
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _follow(
    console: Console, client: Client, task_id: str, tick: Callable[[], None], stopping: threading.Event
) -> TaskDetail | None:
    """The task once it has ended, its progress shown meanwhile; null when interrupted."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("steps", total=None)
        said_at = time.monotonic()
        while not stopping.wait(_LOOK_SECONDS):
            tick()
            task = client.task(task_id)
            progress.update(bar, total=task["step_count"] or None, completed=_ended_steps(task))
            if task["state"] in ENDED:
                return task
            if not console.is_terminal and time.monotonic() - said_at > _LINE_SECONDS:
                said_at = time.monotonic()
                console.print(f"{task['state']}: {_ended_steps(task)} of {task['step_count']} steps")
    return None


def _ended_steps(task: Task) -> int:
    return sum(task["step_counts"].get(state, 0) for state in ("succeeded", "failed", "dead", "cancelled", "skipped"))


def _show(console: Console, client: Client, task: TaskDetail, place: Path, *, seconds: float) -> int:
    """Print the tables and, where there is one, save the report; the exit status."""
    shown = Table("steps", "count", title=f"task {task['state']}{' (degraded)' if task['degraded'] else ''}")
    for state, count in sorted(task["step_counts"].items()):
        if count:
            shown.add_row(state, str(count))
    shown.add_section()
    for verdict, count in sorted(_verdicts(client, task["id"]).items()):
        shown.add_row(f"gate verdict: {verdict}", str(count))
    shown.add_section()
    shown.add_row("seconds", f"{seconds:.1f}")
    if task["state"] != "succeeded":
        console.print(shown)
        _complain(console, client, task)
        return 1
    result = client.result(task["id"])
    shown.add_section()
    for output in result["outputs"].values():
        for figure, text in _FIGURES.items():
            shown.add_row(text, str(output["summary"][figure]))
    console.print(shown)
    for path in sorted(save_result(client, result, place)):
        console.print(str(path), markup=False)
    console.print(f"report: {place / 'report.html'}", markup=False)
    return 0


def _verdicts(client: Client, task_id: str) -> Counter[str]:
    """How often each result was given, over all attempts of all steps."""
    given: Counter[str] = Counter()
    for step in client.steps(task_id):
        for attempt in client.step(step["id"])["attempts"]:
            given.update(str(verdict["result"]) for verdict in attempt["verdicts"] or ())
    return given


def _complain(console: Console, client: Client, task: TaskDetail) -> None:
    error = task["error"]
    if error is not None:
        console.print(f"{error['code']}: {error['text']}", markup=False)
    for letter in client.dead_letters(task=task["id"], limit=5):
        console.print(f"dead letter {letter['id']}: {letter['reason']}: {letter['text']}", markup=False)
