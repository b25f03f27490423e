"""Every way an attempt's process can end, with its code, its time, nothing left running and no neighbour disturbed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from uuid import UUID

import pytest

from contracts.assignments import Assignment
from contracts.context import Progress
from contracts.errors import Failure
from contracts.outcomes import Done, Failed, Retry
from contracts.teams import Agent, Isolation, Kind, Role
from contracts.testing import HeldArtifacts
from workers.isolation import AttemptRunner, ProcessRunner, Ran, ThreadRunner
from workers.isolation.linux import kill_marked

AGENTS = """
import ctypes, faulthandler, os, signal, subprocess, sys, threading, time
from contracts.errors import NotFound
from contracts import ArtifactRef

STATE = []

def echo(ctx, input): return input
def meddle(ctx, input):
    input["said"].append("this")
    ctx.inputs["a"]["said"] = "that"
    return [input, dict(ctx.inputs)]
def slow(ctx, input):
    time.sleep(input["seconds"])
    return "slept"
def slow_and_noted(ctx):
    ctx.progress("begun", 0.0)
    time.sleep(10)
def count(ctx):
    STATE.append(1)
    return len(STATE)
def where(ctx): return [os.getpid(), os.getppid(), os.getsid(0)]
def environment(ctx): return dict(os.environ)
def path(ctx): return sys.path
def stdin(ctx): return sys.stdin.read()
def descriptors(ctx): return sorted(int(each) for each in os.listdir("/proc/self/fd"))
def logs(ctx, input):
    ctx.log.warning("from the log")
    print("printed")
    os.write(2, b"raw\\0\\xff")
    return None
def progress(ctx):
    ctx.progress("half", 0.5)
    ctx.progress("all", 1)
def flood(ctx):
    from workers.isolation.frames import encode_frame
    frame = encode_frame("progress", {"text": "x" * 1000})
    while True: ctx.artifacts._channel.sendall(frame)
def artifacts(ctx, input):
    ref = ctx.artifacts.put(b"\\0\\xff" * 1_500_000, "image/png")
    try:
        ctx.artifacts.get("0" * 64)
    except NotFound as error:
        missing = str(error)
    return {"ref": ref, "same": ctx.artifacts.get(ref) == b"\\0\\xff" * 1_500_000, "missing": missing}
def pipelined(ctx):
    from workers.isolation.frames import encode_frame, receive_frame
    ref = ctx.artifacts.put(b"x" * 3_000_000)
    channel = ctx.artifacts._channel
    channel.sendall(encode_frame("get", {"sha256": ref.sha256}) * 5)
    return [len(receive_frame(channel).body) for _ in range(5)]
def large_artifact(ctx): ctx.artifacts.put(bytes(65 * 1024 * 1024))

def leave(ctx, input): os._exit(input["status"])
def polite(ctx): sys.exit(4)
def segfault(ctx): ctypes.string_at(0)
def abort(ctx): os.kill(os.getpid(), signal.SIGKILL)
def hang(ctx, input):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(number, signal.SIG_IGN)
    while True: time.sleep(1000)
def spin(ctx):
    while True: pass
def stop(ctx): os.kill(os.getpid(), signal.SIGSTOP)
def leak(ctx):
    held = []
    while True: held.append(bytearray(16 * 1024 * 1024))
def leak_in_thread(ctx):
    errors = []
    def grow():
        held = []
        try:
            while True: held.append(bytearray(16 * 1024 * 1024))
        except MemoryError as error: errors.append(error)
    thread = threading.Thread(target=grow); thread.start(); thread.join()
    raise errors[0]
def chatter(ctx):
    for _ in range(1024): os.write(1, b"x" * 1024 * 1024)
def sever(ctx):
    os.closerange(0, 256)
    return "done"
def sever_and_hang(ctx):
    os.closerange(0, 256)
    time.sleep(1000)
def parricide(ctx):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)
def freeze_parent(ctx):
    os.kill(os.getppid(), signal.SIGSTOP)
    time.sleep(1000)
def breed(ctx, input):
    for index in range(20):
        if os.fork() == 0:
            if index % 2: os.setsid()
            if index % 5 == 0 and os.fork(): os._exit(0)
            time.sleep(1000)
            os._exit(0)
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    subprocess.Popen("sleep 1000 & sleep 1000 &", shell=True)
    if input.get("hang"): time.sleep(1000)
    if input.get("parricide"): parricide(ctx)
    return "bred"
def twice(ctx):
    if os.fork() == 0: return "copy"
    time.sleep(0.3)
    return "once"
def relay(ctx):
    if os.fork() == 0:
        for _ in range(1_000_000):
            if os.fork(): os._exit(0)
    return "running"
def daemon(ctx):
    # A helper that loses its parent: does it still run when neighbours have ended?
    helper = int(subprocess.check_output("sleep 1000 > /dev/null & echo $!", shell=True))
    ctx.progress("started", 1)
    time.sleep(1)
    os.kill(helper, 0)
    return open(f"/proc/{helper}/stat").read().rpartition(")")[2].split()[0]
def huge(ctx): return "x" * (65 * 1024 * 1024)
def large(ctx): return "x" * (8 * 1024 * 1024)
def nul(ctx): return {"a": "\\0"}
def forged_nul(ctx):
    from workers.isolation.frames import encode_frame
    ctx.artifacts._channel.sendall(encode_frame("outcome", {"outcome": {"type": "done", "output": {"a": "\\0"}}}))
    time.sleep(0.1)
    os._exit(0)
def garbage(ctx):
    ctx.artifacts._channel.sendall(b"\\0\\0\\0\\4\\0\\0\\0\\0" + b"{{{{")
    time.sleep(1000)
def oversized(ctx):
    ctx.artifacts._channel.sendall(b"\\xff" * 8)
    time.sleep(1000)
def answer_and_stay(ctx):
    from workers.isolation.frames import encode_frame
    ctx.artifacts._channel.sendall(encode_frame("outcome", {"outcome": {"type": "done", "output": 1}}))
    ctx.artifacts._channel.close()
    time.sleep(1000)
def borrowed(ctx): raise MemoryError
"""

PROMPT_SECONDS = 1.0
"""How long past its limit an attempt may take to end."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("bodies")
    (folder / "sample_bodies.py").write_text(AGENTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("SAMPLE_BODIES_OF", str(folder))
        yield folder


@pytest.fixture(scope="module")
def runner(folder: Path) -> Iterator[ProcessRunner]:
    """One for all tests, as in a worker: what one of them leaves behind disturbs the others."""
    runner = ProcessRunner()
    yield runner
    started_at = time.monotonic()
    runner.close()
    assert time.monotonic() - started_at < 2
    assert not _bodies(folder)


@pytest.fixture
def fresh(folder: Path) -> Iterator[ProcessRunner]:
    """One that has no zygotes yet."""
    runner = ProcessRunner()
    yield runner
    runner.close()


def assignment(given: Any = None) -> Assignment:
    return Assignment(
        tenant="default",
        task_id=UUID(int=1),
        step_id=UUID(int=2),
        epoch=1,
        key="a",
        role=Role.EXECUTOR,
        agent="sample",
        team_digest="0" * 64,
        attempt=1,
        rejections=0,
        questions=0,
        input={} if given is None else given,
    )


def run(
    runner: AttemptRunner | ProcessRunner | ThreadRunner,
    call: str,
    given: Any = None,
    *,
    timeout_seconds: float = 20.0,
    cancelled: threading.Event | None = None,
    artifacts: HeldArtifacts | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Ran:
    module = call if ":" in call else f"sample_bodies:{call}"
    start = partial(
        runner.run,
        options.pop("agent", None) or Agent(call=module, **options),
        assignment(given),
        artifacts=artifacts or HeldArtifacts(),
        progress=progress or (lambda text, fraction=None: None),
        timeout_seconds=timeout_seconds,
        cancelled=cancelled or threading.Event(),
    )
    if isinstance(runner, ProcessRunner):
        return start()
    answers: SimpleQueue[Ran] = SimpleQueue()
    # In a thread of its own: a body that is given up comes back to its caller when it will.
    threading.Thread(target=start, kwargs={"then": answers.put}, daemon=True).start()
    ran = answers.get(timeout=timeout_seconds + 5)
    assert answers.empty()
    return ran


def failure(ran: Ran) -> Failure:
    assert isinstance(ran.outcome, Failed), ran
    return ran.outcome.failure


def _descendants() -> list[str]:
    """Command lines of processes below this one, zombies not counted; those of zygotes' children included."""
    parents: dict[int, int] = {}
    lines: dict[int, str] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            state, parent = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()[:2]
            if state != b"Z":
                parents[int(name)] = int(parent)
                lines[int(name)] = Path(f"/proc/{name}/cmdline").read_text().replace("\0", " ")
        except (OSError, ValueError):
            continue
    below = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return [lines[pid] for pid in below - {os.getpid()}]


def _bodies(folder: Path) -> list[int]:
    """Processes that came from this test, other than its zygotes: they all carry its mark."""
    mark = f"SAMPLE_BODIES_OF={folder}".encode()
    found = []
    for name in os.listdir("/proc"):
        try:
            marked = mark in Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
            fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        if marked and fields[0] != b"Z" and int(fields[1]) != os.getpid():
            found.append(int(name))
    return found


def wait_until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


class Neighbour:
    """An attempt in the same runner that must not notice what happens beside it."""

    def __init__(self, runner: ProcessRunner, seconds: float) -> None:
        self._ran: Ran | None = None
        self._runner = runner
        self._seconds = seconds
        self._thread = threading.Thread(target=self._run)
        self._started = threading.Event()

    def __enter__(self) -> "Neighbour":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        assert self._ran is not None
        assert self._ran.outcome == Done(output="slept"), self._ran

    def _run(self) -> None:
        self._ran = run(self._runner, "slow", {"seconds": self._seconds})


class TestRunning:
    def test_an_attempt_returns_what_its_function_returns(self, runner: ProcessRunner) -> None:
        ran = run(runner, "echo", {"a": [1, None, "ü"]})
        assert ran.outcome == Done(output={"a": [1, None, "ü"]})
        assert ran.code_hash is not None
        assert len(ran.code_hash) == 64
        assert ran.peak_memory_bytes is not None
        assert ran.peak_memory_bytes > 1_000_000

    def test_every_attempt_starts_fresh_in_a_session_of_its_own(self, runner: ProcessRunner) -> None:
        assert [run(runner, "count").outcome for _ in range(3)] == [Done(output=1)] * 3
        first, second = (run(runner, "where").outcome for _ in range(2))
        assert isinstance(first, Done)
        assert isinstance(second, Done)
        assert first.output[0] == first.output[2]
        assert first.output[0] != second.output[0]
        assert first.output[1] == second.output[1]

    def test_edited_code_is_picked_up(self, runner: ProcessRunner, folder: Path) -> None:
        file = folder / "sample_edited.py"
        hashes = set()
        for number in range(3):
            file.write_text(f"def f(ctx): return {number}{' ' * number}")
            ran = run(runner, "sample_edited:f")
            assert ran.outcome == Done(output=number)
            hashes.add(ran.code_hash)
        assert len(hashes) == 3
        wait_until(lambda: sum("sample_edited" in line for line in _descendants()) == 1)

    def test_secrets_stay_outside_and_paths_come_along(
        self, fresh: ProcessRunner, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ORCHESTRATOR_DATABASE_URL", "postgresql://hidden")
        monkeypatch.setenv("PYTHONPATH", "/nowhere/in/particular")
        seen = run(fresh, "environment").outcome
        assert isinstance(seen, Done)
        assert not any("ORCHESTRATOR" in key or "hidden" in value for key, value in seen.output.items())
        assert seen.output["PYTHONPATH"] == "/nowhere/in/particular"
        assert "AGENT_PYTHONPATH" not in seen.output
        path = run(fresh, "path").outcome
        assert isinstance(path, Done)
        assert str(folder) in path.output

    def test_standard_input_is_empty_and_only_the_channel_is_open(self, runner: ProcessRunner) -> None:
        assert run(runner, "stdin").outcome == Done(output="")
        with Neighbour(runner, 0.5):
            opened = run(runner, "descriptors").outcome
        assert isinstance(opened, Done)
        # Standard ones, the channel, and the listing's own.
        assert len(opened.output) == 5

    def test_what_is_printed_and_logged_is_the_tail(self, runner: ProcessRunner) -> None:
        ran = run(runner, "logs")
        assert "WARNING from the log" in ran.log_tail
        assert "printed" in ran.log_tail
        assert "raw\\0" in ran.log_tail

    def test_progress_arrives(self, runner: ProcessRunner) -> None:
        seen: list[tuple[str, float | None]] = []
        run(runner, "progress", progress=lambda text, fraction=None: seen.append((text, fraction)))
        assert seen == [("half", 0.5), ("all", 1.0)]

    def test_progress_that_cannot_be_recorded_costs_nothing(self, runner: ProcessRunner) -> None:
        def refuse(text: str, fraction: float | None = None) -> None:
            raise ConnectionError("away")

        assert run(runner, "progress", progress=refuse).outcome == Done()

    def test_artifacts_go_both_ways(self, runner: ProcessRunner) -> None:
        artifacts = HeldArtifacts()
        outcome = run(runner, "artifacts", artifacts=artifacts).outcome
        assert isinstance(outcome, Done)
        assert outcome.output["same"] is True
        assert "no artifact" in outcome.output["missing"]
        assert len(artifacts.get(outcome.output["ref"]["sha256"])) == 3_000_000

    def test_questions_ahead_of_answers_wait_their_turn(self, runner: ProcessRunner) -> None:
        assert run(runner, "pipelined").outcome == Done(output=[3_000_000] * 5)

    def test_an_artifact_above_the_frame_limit_is_refused_in_the_agent(self, runner: ProcessRunner) -> None:
        refused = failure(run(runner, "large_artifact"))
        assert refused.code == "agent.error"
        assert "split it" in refused.text

    def test_a_hundred_threads_at_once(self, fresh: ProcessRunner) -> None:
        before = sum("zygote" in line for line in _descendants())
        outcomes: list[object] = []

        def work(number: int) -> None:
            given = {"n": number}
            outcomes.extend(run(fresh, "echo", given).outcome == Done(output=given) for _ in range(3))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outcomes == [True] * 300
        assert sum("zygote" in line for line in _descendants()) == before + 1


class TestEndings:
    """Each ending beside a neighbour from the same zygote."""

    @pytest.mark.parametrize(
        ("call", "given", "code", "text"),
        [
            ("leave", {"status": 3}, "agent.crashed", "exit status 3"),
            ("leave", {"status": 0}, "agent.crashed", "exit status 0"),
            ("polite", {}, "agent.crashed", "exit(4)"),
            ("segfault", {}, "agent.crashed", "SIGSEGV"),
            ("abort", {}, "agent.crashed", "SIGKILL"),
            ("sever", {}, "agent.crashed", "exit status 70"),
            ("huge", {}, "bound.output", "larger than"),
            ("nul", {}, "agent.output", "output.a"),
            ("forged_nul", {}, "agent.output", "output.a"),
            ("garbage", {}, "agent.protocol", "no frame"),
            ("oversized", {}, "bound.output", "at once"),
            ("borrowed", {}, "bound.memory", "memory"),
        ],
    )
    def test_an_ending_has_its_code(
        self, runner: ProcessRunner, folder: Path, call: str, given: Any, code: str, text: str
    ) -> None:
        with Neighbour(runner, 0.5):
            ran = run(runner, call, given)
            assert (failure(ran).code, text in failure(ran).text) == (code, True), ran
            assert ran.seconds < 5
        assert not _bodies(folder)

    @pytest.mark.parametrize("call", ["hang", "spin", "stop", "sever_and_hang"])
    def test_past_its_time_it_is_killed(self, runner: ProcessRunner, folder: Path, call: str) -> None:
        with Neighbour(runner, 1.0):
            assert run(runner, "echo").outcome == Done(output={})
            ran = run(runner, call, timeout_seconds=0.5)
            assert failure(ran).code == "bound.time"
            assert 0.5 <= ran.seconds < 0.5 + PROMPT_SECONDS
        assert not _bodies(folder)

    @pytest.mark.parametrize("call", ["leak", "leak_in_thread"])
    def test_a_leak_ends_at_the_limit(self, runner: ProcessRunner, call: str) -> None:
        with Neighbour(runner, 0.5):
            ran = run(runner, call, memory_mb=256)
            assert failure(ran).code == "bound.memory"
            assert ran.peak_memory_bytes is not None
            assert ran.peak_memory_bytes < 400 * 1024 * 1024

    def test_printing_without_end_is_stopped_and_the_worker_stays_small(self, runner: ProcessRunner) -> None:
        with Neighbour(runner, 0.5):
            before = _resident_bytes()
            ran = run(runner, "chatter", log_bytes=16_000_000)
            assert failure(ran).code == "bound.output"
            assert len(ran.log_tail) == 4096
            assert _resident_bytes() - before < 20_000_000

    def test_progress_without_end_is_stopped(self, runner: ProcessRunner) -> None:
        assert failure(run(runner, "flood", log_bytes=1_000_000)).code == "bound.output"

    @pytest.mark.parametrize("hang", [False, True])
    def test_what_it_left_running_is_killed(self, runner: ProcessRunner, folder: Path, hang: bool) -> None:
        with Neighbour(runner, 1.0):
            ran = run(runner, "breed", {"hang": hang}, timeout_seconds=1.0)
            if hang:
                assert failure(ran).code == "bound.time"
            else:
                assert ran.outcome == Done(output="bred")
            assert ran.seconds < 1.0 + PROMPT_SECONDS
            # The neighbour may still run.
            assert len(_bodies(folder)) <= 1
        assert not _bodies(folder)

    def test_an_answer_counts_even_if_the_process_does_not_end(self, runner: ProcessRunner, folder: Path) -> None:
        spent = time.process_time()
        ran = run(runner, "answer_and_stay")
        assert time.process_time() - spent < 0.2
        assert ran.outcome == Done(output=1)
        assert ran.seconds < 1.0 + PROMPT_SECONDS
        assert not _bodies(folder)

    def test_a_copy_that_returns_gives_no_second_answer(self, runner: ProcessRunner) -> None:
        assert run(runner, "twice").outcome == Done(output="once")

    def test_a_large_output_below_the_limit_passes(self, runner: ProcessRunner) -> None:
        outcome = run(runner, "large").outcome
        assert isinstance(outcome, Done)
        assert len(outcome.output) == 8 * 1024 * 1024

    def test_a_chain_of_forks_does_not_get_away(self, runner: ProcessRunner, folder: Path) -> None:
        assert run(runner, "relay").outcome == Done(output="running")
        assert not _bodies(folder)

    def test_a_living_attempt_keeps_what_it_started_when_others_end(self, runner: ProcessRunner) -> None:
        found: list[Ran] = []
        started = threading.Event()

        def watch() -> None:
            found.append(run(runner, "daemon", progress=lambda text, fraction=None: started.set()))

        thread = threading.Thread(target=watch)
        thread.start()
        assert started.wait(5)
        for _ in range(3):
            assert run(runner, "echo").outcome == Done(output={})
        thread.join()
        assert found[0].outcome == Done(output="S")

    def test_cancelling_kills_at_once(self, runner: ProcessRunner, folder: Path) -> None:
        cancelled = threading.Event()
        timer = threading.Timer(0.5, cancelled.set)
        timer.start()
        ran = run(runner, "breed", {"hang": True}, cancelled=cancelled)
        timer.join()
        assert failure(ran).code == "task.cancelled"
        assert ran.seconds < 0.5 + PROMPT_SECONDS
        assert not _bodies(folder)

    @pytest.mark.parametrize("call", ["parricide", "breed"])
    def test_killing_its_zygote_costs_the_attempt_and_a_new_one_is_started(
        self, runner: ProcessRunner, folder: Path, call: str
    ) -> None:
        ran = run(runner, call, {"parricide": True})
        assert failure(ran).code == "agent.crashed"
        assert not _bodies(folder)
        assert run(runner, "echo").outcome == Done(output={})

    def test_a_zygote_that_does_not_answer_is_replaced(self, runner: ProcessRunner, folder: Path) -> None:
        found: list[Ran] = []
        neighbour = threading.Thread(target=lambda: found.append(run(runner, "slow", {"seconds": 15})))
        neighbour.start()
        wait_until(lambda: _bodies(folder))
        ran = run(runner, "freeze_parent", timeout_seconds=0.5)
        assert failure(ran).code == "bound.time"
        assert ran.seconds < 0.5 + PROMPT_SECONDS
        neighbour.join(3)
        assert failure(found[0]).code == "agent.crashed"
        assert not _bodies(folder)
        assert run(runner, "echo").outcome == Done(output={})

    def test_closing_the_runner_ends_what_runs(self, folder: Path) -> None:
        runner = ProcessRunner()
        found: list[Ran] = []
        thread = threading.Thread(target=lambda: found.append(run(runner, "breed", {"hang": True})))
        thread.start()
        wait_until(lambda: len(_bodies(folder)) > 20)
        runner.close()
        thread.join()
        assert failure(found[0]).code == "worker.stopped"
        assert not _bodies(folder)
        assert failure(run(runner, "echo")).code == "worker.stopped"

    @pytest.mark.parametrize("zygotes_first", [False, True])
    def test_agents_die_with_their_worker(self, folder: Path, zygotes_first: bool) -> None:
        script = (
            "import test_isolation as t, threading\n"
            "from workers.isolation import ProcessRunner\n"
            "runner = ProcessRunner()\n"
            "threading.Thread(target=lambda: t.run(runner, 'sample_hung:f')).start()\n"
            f"t.run(runner, {'hang' if zygotes_first else 'breed'!r}, {{'hang': True}})\n"
        )
        (folder / "sample_hung.py").write_text("import time\nwhile True: time.sleep(1000)")
        path = os.pathsep.join([str(folder), str(Path(__file__).parent)])
        worker = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": path})
        try:
            # Two zygotes, one of them in its import; what the other forked.
            wait_until(lambda: len(_bodies(folder)) > (2 if zygotes_first else 22), 10)
        finally:
            if zygotes_first:
                # All at once, as when the system runs out of memory: nobody is left to clean up.
                worker.send_signal(signal.SIGSTOP)
                for pid in _children(worker.pid):
                    os.kill(pid, signal.SIGKILL)
            worker.kill()
            worker.wait()
        wait_until(lambda: not _bodies(folder))


class TestImports:
    @pytest.mark.parametrize(
        ("body", "code", "text"),
        [
            ("import nothing_like_it", "agent.not_importable", "nothing_like_it"),
            ("def f(:", "agent.not_importable", "SyntaxError"),
            ("raise SystemExit(3)", "agent.not_importable", "SystemExit"),
            ("f = 3", "agent.not_importable", "not a function"),
            ("import os; os._exit(3)", "agent.crashed", "started from"),
            ("import ctypes; ctypes.string_at(0)", "agent.crashed", "started from"),
        ],
    )
    def test_a_module_that_cannot_be_imported_costs_the_attempt(
        self, runner: ProcessRunner, folder: Path, body: str, code: str, text: str
    ) -> None:
        (folder / "sample_broken.py").write_text(f"import sys; print('importing', flush=True)\n{body}")
        ran = run(runner, "sample_broken:f")
        assert failure(ran).code == code
        assert text in failure(ran).text
        if body not in ("def f(:", "f = 3"):
            assert ran.log_tail == "importing\n"
        assert run(runner, "echo").outcome == Done(output={})

    def test_what_was_missing_may_come(self, runner: ProcessRunner, folder: Path) -> None:
        assert failure(run(runner, "sample_coming:f")).code == "agent.not_importable"
        (folder / "sample_coming.py").write_text("def f(ctx): return 1")
        assert run(runner, "sample_coming:f").outcome == Done(output=1)

    def test_what_an_import_missed_may_come(self, runner: ProcessRunner, folder: Path) -> None:
        (folder / "sample_needy.py").write_text("from sample_needed import f")
        assert failure(run(runner, "sample_needy:f")).code == "agent.not_importable"
        (folder / "sample_needed.py").write_text("def f(ctx): return 1")
        assert run(runner, "sample_needy:f").outcome == Done(output=1)

    def test_an_import_that_hangs_costs_its_attempt_and_its_zygote(self, runner: ProcessRunner, folder: Path) -> None:
        (folder / "sample_hung.py").write_text("import time\nwhile True: time.sleep(1000)")
        ran = run(runner, "sample_hung:f", timeout_seconds=0.5)
        assert failure(ran).code == "bound.time"
        assert "imported" in failure(ran).text
        assert ran.seconds < 0.5 + PROMPT_SECONDS
        wait_until(lambda: not any("sample_hung" in line for line in _descendants()))

    def test_an_import_that_prints_without_end_is_stopped(self, runner: ProcessRunner, folder: Path) -> None:
        (folder / "sample_loud.py").write_text("while True: print('x' * 100_000)")
        assert failure(run(runner, "sample_loud:f")).code == "agent.not_importable"


class TestCommands:
    def agent(self, script: str, **options: Any) -> Agent:
        return Agent(kind=Kind.COMMAND, command=(sys.executable, "-c", script), **options)

    def test_a_program_reads_its_assignment_and_answers(self, runner: ProcessRunner) -> None:
        script = (
            "import json, sys; given = json.load(sys.stdin); print('to the log', file=sys.stderr);"
            "print(json.dumps({'output': [given['input'], given['key'], given['attempt'], given['role']]}))"
        )
        ran = run(runner, "", {"a": 1}, agent=self.agent(script))
        assert ran.outcome == Done(output=[{"a": 1}, "a", 1, "executor"])
        assert ran.log_tail == "to the log\n"
        assert ran.code_hash is not None

    @pytest.mark.parametrize(
        ("script", "code", "text"),
        [
            ("import sys; sys.exit(3)", "agent.crashed", "exit status 3"),
            ("import os; os.abort()", "agent.crashed", "SIGABRT"),
            ("print('hello')", "agent.protocol", "not JSON"),
            ("print('[]')", "agent.protocol", "not a JSON object"),
            ("print('{}')", "agent.protocol", "answer"),
            ("pass", "agent.protocol", "printed nothing"),
            ("""print('{"output": NaN}')""", "agent.protocol", "not JSON"),
            (r"""print('{"output": "\\u0000"}')""", "agent.output", "output"),
            ("import sys\nwhile True: sys.stdout.write('x' * 1000000)", "bound.output", "more than"),
            ("import sys\nwhile True: sys.stderr.write('x' * 1000000)", "bound.output", "printed more"),
            (
                """print('{"type": "failed", "failure": {"code": "agent.full", "text": "no room"}}')""",
                "agent.full",
                "no room",
            ),
            (
                """print('{"type": "failed", "failure": {"code": "lease.lost", "text": "no"}}')""",
                "agent.protocol",
                "agent.",
            ),
        ],
    )
    def test_an_ending_has_its_code(
        self, runner: ProcessRunner, folder: Path, script: str, code: str, text: str
    ) -> None:
        ran = run(runner, "", agent=self.agent(script))
        assert (failure(ran).code, text in failure(ran).text) == (code, True), ran
        assert not _bodies(folder)

    def test_outcomes_by_type(self, runner: ProcessRunner) -> None:
        script = """print('{"type": "retry", "reason": "busy", "after_seconds": 3}')"""
        assert run(runner, "", agent=self.agent(script)).outcome == Retry(reason="busy", after_seconds=3)

    def test_a_program_that_reads_nothing_and_one_that_leaves_its_output_open(self, runner: ProcessRunner) -> None:
        given = {"a": "x" * 1_000_000}
        script = """import os; os.close(0); print('{"output": 1}')"""
        assert run(runner, "", given, agent=self.agent(script)).outcome == Done(output=1)
        script = """import subprocess; subprocess.Popen(['sleep', '1000']); print('{"output": 2}')"""
        ran = run(runner, "", given, agent=self.agent(script))
        assert ran.outcome == Done(output=2)
        assert ran.seconds < 5

    def test_past_its_time_it_is_killed(self, runner: ProcessRunner, folder: Path) -> None:
        agent = self.agent("import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(1000)")
        ran = run(runner, "", agent=agent, timeout_seconds=1.0)
        assert failure(ran).code == "bound.time"
        assert ran.seconds < 1.0 + PROMPT_SECONDS
        assert not _bodies(folder)

    def test_a_leak_ends_at_the_limit(self, runner: ProcessRunner) -> None:
        ran = run(runner, "", agent=self.agent("x = [bytearray(1 << 24) for _ in range(256)]", memory_mb=256))
        assert failure(ran).code == "agent.crashed"
        assert "MemoryError" in ran.log_tail
        assert ran.peak_memory_bytes is not None
        assert ran.peak_memory_bytes < 400 * 1024 * 1024

    def test_a_program_that_is_not_there(self, runner: ProcessRunner) -> None:
        agent = Agent(kind=Kind.COMMAND, command=("/no/such/program",))
        assert failure(run(runner, "", agent=agent)).code == "agent.not_importable"


class TestThreads:
    @pytest.fixture
    def threads(self, folder: Path) -> Iterator[ThreadRunner]:
        runner = ThreadRunner()
        yield runner
        runner.close()
        sys.modules.pop("sample_bodies", None)

    def test_an_attempt_returns_what_its_function_returns(self, threads: ThreadRunner) -> None:
        ran = run(threads, "echo", {"a": 1})
        assert ran.outcome == Done(output={"a": 1})
        assert len(ran.code_hash or "") == 64
        assert "WARNING from the log" in run(threads, "logs").log_tail
        assert failure(run(threads, "polite")).code == "agent.crashed"
        assert failure(run(threads, "no_such")).code == "agent.not_importable"

    def test_what_a_body_changes_of_what_it_was_given_its_gates_do_not_see(self, threads: ThreadRunner) -> None:
        given = assignment({"said": []}).model_copy(update={"inputs": {"a": {"said": ""}}})
        answers: SimpleQueue[Ran] = SimpleQueue()
        start(threads, "meddle", answers.put, given, gates=("files",))
        assert answers.get(timeout=8).outcome == Done(output=[{"said": ["this"]}, {"a": {"said": "that"}}])
        assert (given.input, given.inputs) == ({"said": []}, {"a": {"said": ""}})

    def test_past_its_time_the_thread_is_given_up_and_counted(self, threads: ThreadRunner) -> None:
        ran = run(threads, "slow", {"seconds": 1.0}, timeout_seconds=0.3)
        assert failure(ran).code == "bound.time"
        assert 0.3 <= ran.seconds < 0.8
        assert threads.abandoned_count == 1
        assert run(threads, "echo").outcome == Done(output={})
        wait_until(lambda: threads.abandoned_count == 0)

    def test_cancelling_gives_the_thread_up(self, threads: ThreadRunner) -> None:
        cancelled = threading.Event()
        cancelled.set()
        ran = run(threads, "slow", {"seconds": 1.0}, cancelled=cancelled)
        assert failure(ran).code == "task.cancelled"
        assert ran.seconds < 0.8

    def test_what_begins_while_the_watcher_looks_is_given_up_by_a_close(self, threads: ThreadRunner) -> None:
        """Whether the first is cancelled is asked by the watcher, which therefore is in the middle of a look."""
        second: SimpleQueue[Ran] = SimpleQueue()
        begun, closing = threading.Event(), threading.Event()

        def close() -> None:
            closing.set()
            threads.close()

        def in_the_watcher() -> None:
            start(threads, "slow_and_noted", second.put, progress=lambda text, fraction=None: begun.set())
            assert begun.wait(5)
            threading.Thread(target=close, daemon=True).start()
            assert closing.wait(5)
            # Closed once it begins nothing more.
            wait_until(lambda: is_refused(threads))

        class Asked(threading.Event):
            def is_set(self) -> bool:
                if not begun.is_set():
                    in_the_watcher()
                return False

        first: SimpleQueue[Ran] = SimpleQueue()
        start(threads, "slow", first.put, {"seconds": 2.0}, cancelled=Asked())
        assert failure(second.get(timeout=8)).code == "worker.stopped"

    def test_who_hears_of_a_given_up_attempt_may_wait(self, threads: ThreadRunner) -> None:
        second: SimpleQueue[Ran] = SimpleQueue()
        heard = threading.Event()
        start(threads, "slow", lambda _: heard.wait(5), {"seconds": 1.0}, timeout_seconds=0.1)
        start(threads, "slow", second.put, {"seconds": 1.0}, timeout_seconds=0.4)
        assert failure(second.get(timeout=3)).code == "bound.time"
        heard.set()

    def test_nothing_begins_after_a_close(self, threads: ThreadRunner) -> None:
        threads.close()
        assert is_refused(threads)


def start(runner: ThreadRunner, call: str, then: Callable[[Ran], None], given: Any = None, **options: Any) -> None:
    """Begin an attempt in a thread of its own; a body that is given up comes back to its caller when it will."""
    agent = Agent(call=f"sample_bodies:{call}", isolation=Isolation.THREAD, gates=options.pop("gates", ()))
    options = {
        "timeout_seconds": 20.0,
        "progress": lambda text, fraction=None: None,
        "cancelled": threading.Event(),
        **options,
    }
    attempt = partial(
        runner.run,
        agent,
        given if isinstance(given, Assignment) else assignment(given),
        artifacts=HeldArtifacts(),
        then=then,
        **options,
    )
    threading.Thread(target=attempt, daemon=True).start()


def is_refused(runner: ThreadRunner) -> bool:
    ended: SimpleQueue[Ran] = SimpleQueue()
    start(runner, "echo", ended.put)
    outcome = ended.get(timeout=5).outcome
    return isinstance(outcome, Failed) and outcome.failure.code == "worker.stopped"


def test_the_agent_says_where_it_runs(folder: Path) -> None:
    runner = AttemptRunner()
    try:
        inside = run(runner, "where", isolation=Isolation.THREAD).outcome
        outside = run(runner, "where").outcome
        assert isinstance(inside, Done)
        assert isinstance(outside, Done)
        assert inside.output[0] == os.getpid() != outside.output[0]
    finally:
        runner.close()
        sys.modules.pop("sample_bodies", None)


def test_marked_processes_are_found_and_no_others() -> None:
    marked = subprocess.Popen(["sleep", "1000"], env={**os.environ, "AGENT_TEST_MARK": "abc"})
    other = subprocess.Popen(["sleep", "1000"], env={**os.environ, "AGENT_TEST_MARK": "abcd"})
    try:
        assert kill_marked("AGENT_TEST_MARK=abc") == 1
        assert marked.wait(5) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for each in (marked, other):
            each.kill()
            each.wait()


def _children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
