"""`python -m tests.benchmarks.flames`: where a worker's time goes in W1 and W2, as flame graphs for the documents.

Needs py-spy (`pip install py-spy`), which needs the right to look into another process.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from contracts.errors import Misconfigured, OrchestratorError
from orchestrator.embedded import EmbeddedPostgres, EmbeddedRedis
from tests.benchmarks.measure import Meter
from tests.benchmarks.ours import Ours
from tests.benchmarks.workloads import W1, W2, W3, Workload, run_latencies, run_load

IMAGES = Path(__file__).parents[2] / "docs" / "images"
SECONDS = 15
SAMPLES_PER_SECOND = 250
_TITLE = re.compile(r'(<text id="title"[^>]*>)[^<]*(</text>)')


def main() -> int:
    console = Console(stderr=True)
    folder = Path(tempfile.mkdtemp(prefix="orchestrator-flames-"))
    try:
        with ExitStack() as stack:
            draw_all(folder, stack, console)
    except OrchestratorError as error:
        console.print(error.text)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def draw_all(folder: Path, stack: ExitStack, console: Console) -> None:
    postgres = stack.enter_context(EmbeddedPostgres(folder / "postgres"))
    redis = stack.enter_context(EmbeddedRedis(folder / "redis"))
    meter = stack.enter_context(Meter(postgres.url, {"postgres": postgres.port, "redis": redis.port}))
    ours = Ours(folder, postgres, redis, workers=2, slots=100)
    stack.callback(ours.stop)
    run_latencies(ours, W3, count=20)
    for workload in (W1, W2):
        console.print(f"{workload.name}: {SECONDS} s")
        draw(ours, workload, meter, IMAGES / f"flame-{workload.name.lower()}.svg")


def draw(ours: Ours, workload: Workload, meter: Meter, image: Path) -> None:
    """Sample one worker while it is under load. Only what holds the interpreter's lock: the rest waits for others."""
    program = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if program is None:
        raise Misconfigured("py-spy is not installed: `pip install py-spy` into the environment of this checkout")
    pid = ours.components()["workers"][0]
    command = [program, "record", "--gil", "--format", "flamegraph", "--output", str(image), "--pid", str(pid)]
    options = ["--duration", str(SECONDS), "--rate", str(SAMPLES_PER_SECOND)]
    with subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as spy:
        run_load(ours, workload, meter, seconds=SECONDS + 2, warmup_seconds=0)
        complaint = spy.communicate(timeout=30)[1]
    if spy.returncode:
        raise Misconfigured(f"py-spy cannot look into the worker: {complaint.strip().splitlines()[-1]}")
    title = f"One worker process in {workload.name}, {SECONDS} s, what holds the interpreter's lock"
    image.write_text(entitle(image.read_text(encoding="utf-8"), title), encoding="utf-8")


def entitle(picture: str, title: str) -> str:
    """A flame graph of py-spy under a title of its own: py-spy's is its command line, with paths of the machine.

    Raises `ValueError` where the picture does not have exactly one title. `title` is plain text without markup.
    """
    entitled, count = _TITLE.subn(lambda found: f"{found[1]}{title}{found[2]}", picture)
    if count != 1:
        raise ValueError(f"the picture has {count} titles, not one")
    return entitled


if __name__ == "__main__":
    sys.exit(main())
