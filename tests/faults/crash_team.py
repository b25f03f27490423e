"""The agents of the walks: one of each role, each on the queue of its walk."""

import time
from collections.abc import Mapping

from contracts import Context, Judgement, Plan, Question, Step
from contracts.teams import Team


def plan(ctx: Context) -> Plan:
    return Plan(steps=(Step(id="first", agent="echo"), Step(id="second", agent="echo", needs=("first",))))


def echo(ctx: Context) -> dict[str, str]:
    return {"key": ctx.step.key}


def nap(ctx: Context) -> dict[str, str]:
    """Longer than a message's steps wait for a slot."""
    time.sleep(2.5)
    return {"key": ctx.step.key}


def ask(ctx: Context) -> dict[str, str] | Question:
    return {"answer": ctx.answers[-1].answer} if ctx.answers else Question(text="May I?")


def fail(ctx: Context) -> None:
    raise ValueError("failing on purpose")


def judge(ctx: Context, output: Mapping[str, str]) -> Judgement:
    return Judgement.accept()


def team(name: str, queue: str, provider_url: str) -> Team:
    """`talk` names the walk as its model: the provider's ledger tells whose a request is."""

    def agent(call: str, **more: object) -> dict[str, object]:
        return {"call": f"{__name__}:{call}", "isolation": "thread", "queue": queue, **more}

    return Team.model_validate(
        {
            "name": name,
            "agents": {
                "plan": agent("plan", role="planner"),
                "echo": agent("echo"),
                "nap": agent("nap"),
                "ask": agent("ask"),
                "fail": agent("fail", retry={"default": {"attempts": 1}}),
                "draft": agent("echo", review="judge"),
                "judge": agent("judge", role="reviewer"),
                "talk": {
                    "kind": "llm",
                    "prompt": "talk",
                    "model": f"openai-chat:{name}",
                    "base_url": provider_url,
                    "queue": queue,
                },
            },
            "prompts": {"talk": "Say something."},
        }
    )
