"""The diagnostics team's agents, called as plain functions or in a child process where they end it."""

import os
import signal
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts import Judgement, Question, Unable
from contracts.assignments import Answer
from contracts.teams import Isolation, Team
from contracts.testing import context
from workers.agents.load import load
from workers.teams.diagnostics import agents

TEAM = Team.model_validate(tomllib.loads((Path(agents.__file__).parent / "team.toml").read_text()))


def test_every_agent_of_the_team_can_be_loaded() -> None:
    assert TEAM.planner is None
    for agent in TEAM.agents.values():
        load(agent.call or "")


@pytest.mark.parametrize("name", ["crash", "hang", "leak", "print", "fork"])
def test_what_hurts_its_process_gets_one_of_its_own(name: str) -> None:
    assert TEAM.agents[name].isolation is Isolation.PROCESS


def test_echo_returns_its_input_or_what_it_needed() -> None:
    assert agents.echo(context(), {"a": [1]}) == {"a": [1]}
    assert agents.echo(context(inputs={"first": 1}), {}) == {"first": 1}


def test_sleep_returns() -> None:
    assert agents.sleep(context(), agents.Sleep(seconds=0)).seconds == 0


def test_fail_fails_so_often_and_with_its_code() -> None:
    given = agents.Fail(times=2, code="agent.mine", retryable=False)
    for attempt in (1, 2):
        with pytest.raises(agents.DiagnosticFailure) as caught:
            agents.fail(context(attempt=attempt), given)
        assert (caught.value.code, caught.value.retryable) == ("agent.mine", False)
    assert agents.fail(context(attempt=3), given) == given


def ended_by(body: Callable[[], object]) -> int:
    """The wait status of a child process that runs `body`."""
    child = os.fork()
    if child == 0:
        try:
            body()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


def test_crash_kills_its_process_so_often() -> None:
    given = agents.Crash(times=1)
    assert os.WTERMSIG(ended_by(lambda: agents.crash(context(attempt=1), given))) == signal.SIGKILL
    assert ended_by(lambda: agents.crash(context(attempt=2), given)) == 0


def test_hang_hangs_until_it_is_killed() -> None:
    def body() -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        agents.hang(context())

    assert os.WTERMSIG(ended_by(body)) == signal.SIGALRM


@pytest.mark.parametrize("size", [0, 1, 65_536, 200_000])
def test_bytes_are_an_artifact_of_that_size(size: int) -> None:
    ctx = context()
    ref = agents.make_bytes(ctx, agents.Size(size=size))
    assert ref.size_bytes == len(ctx.artifacts.get(ref)) == size


def test_leak_takes_what_it_says() -> None:
    assert agents.leak(context(), agents.Leak(megabytes=3)) == {"megabytes": 3}


def test_print_writes_that_many_bytes(capfd: pytest.CaptureFixture[str]) -> None:
    agents.print_much(context(), agents.Print(bytes=100_001))
    assert len(capfd.readouterr().out) == 100_001


def test_fork_leaves_children_that_live_on() -> None:
    children = agents.fork(context(), agents.Fork(children=2))["children"]
    assert len(set(children)) == 2
    for child in children:
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        os.kill(child, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


def test_ask_asks_until_it_is_answered() -> None:
    given = agents.Ask(question="Which?")
    assert agents.ask(context(), given) == Question(text="Which?")
    other = Answer(question="What?", answer="that")
    assert agents.ask(context(answers=(other,)), given) == Question(text="Which?")
    answered = agents.ask(context(answers=(other, Answer(question="Which?", answer="this"))), given)
    assert answered == {"question": "Which?", "answer": "this"}


def test_refuse_is_unable() -> None:
    assert agents.refuse(context(), agents.Refuse(reason="no")) == Unable(reason="no")


@pytest.mark.parametrize("reject_times", [0, 1, 3])
def test_the_reviewer_refuses_so_often(reject_times: int) -> None:
    raw: dict[str, Any] = {"value": 7, "reject_times": reject_times}
    judgements: list[Judgement] = []
    while not judgements or not judgements[-1].accepted:
        feedback = judgements[-1].reasons if judgements else ()
        output = agents.draft(context(feedback=feedback), agents.Reviewed(**raw))
        judgements.append(agents.review(context(input=raw), output))
    assert [judgement.accepted for judgement in judgements] == [False] * reject_times + [True]
    assert output.value == 7
