"""Random histories: which command comes next, drawn from what the world, the network and the workers hold."""

import random
from collections.abc import Sequence
from typing import Any

from contracts.plans import Plan
from contracts.settlements import Abandon, Settlement
from contracts.teams import Team
from tests.model import commands as c
from tests.model.moves import bad, good
from tests.model.rows import Ref, Step, World
from tests.model.transitions import Effect, assignment

WEIGHTS = {
    "submit": 5, "claim": 30, "settle": 34, "heartbeat": 4, "lapse": 4, "sweep": 4, "expire_worker": 2, "relay": 4,
    "stage": 3, "mature": 4, "outdate": 3, "redrive": 6, "discard": 2, "answer": 5, "cancel": 1, "pause": 2,
    "resume": 3, "deadline": 1, "prune": 1,
}  # fmt: skip
WORKERS = ("w1", "w2", "w3")


class History:
    """One random history. Tell it what each command came to (`note`); it holds what is on the wire and in hands."""

    def __init__(self, seed: int, team: Team, *, task_limit: int = 4) -> None:
        self._random = random.Random(seed)
        self._team = team
        self._task_limit = task_limit
        self._submitted = 0
        self._messages: list[Ref] = []
        self._held: dict[Ref, tuple[Step, Plan]] = {}
        self._edits = 0

    def note(self, command: c.Command, effect: Effect, world: World) -> None:
        """A message once sent may arrive at any time, and an attempt once begun may be settled at any time."""
        self._messages.extend(sorted(effect.sent))
        if isinstance(command, c.Claim):
            for task in world:
                for step in task.steps:
                    if task.ref(step) in effect.done:
                        self._held[task.ref(step)] = (step, self._plan(3))

    def next(self, world: World) -> c.Command:
        """The next command: mostly one that can change something, sometimes one that comes too late."""
        while True:
            (kind,) = self._random.choices(list(WEIGHTS), list(WEIGHTS.values()))
            command = self._draw(kind, world)
            if command is not None:
                return command

    def _draw(self, kind: str, world: World) -> c.Command | None:
        steps = [(task, step) for task in world for step in task.steps]
        match kind:
            case "submit":
                return self._submit()
            case "claim":
                refs = self._some(self._messages, {task.ref(step) for task, step in steps}, 4)
                return c.Claim(refs, self._random.choice(WORKERS)) if refs else None
            case "settle":
                refs = self._some(list(self._held), {task.ref(step) for task, step in steps if step.lease}, 3)
                live = {task.ref(step): step for task, step in steps}
                return c.Settle(tuple((ref, self._settlement(ref, live.get(ref))) for ref in refs)) if refs else None
            case "heartbeat":
                refs = self._some(list(self._held), {task.ref(step) for task, step in steps if step.lease}, 3)
                return c.Heartbeat(refs) if refs else None
            case "lapse":
                return self._one([c.Lapse(task.ref(step)) for task, step in steps if step.lease])
            case "mature":
                return self._one([c.Mature(task.ref(step)) for task, step in steps if step.due])
            case "outdate":
                return self._one([c.Outdate(task.ref(entry)) for task in world for entry in task.entries])
            case "sweep":
                return c.Sweep()
            case "stage":
                return c.Stage()
            case "relay":
                return c.Relay(self._random.random() < 0.7)
            case "expire_worker":
                return c.ExpireWorker(self._random.choice(WORKERS))
            case _:
                return self._draw_person(kind, world)

    def _draw_person(self, kind: str, world: World) -> c.Command | None:
        letters = [(letter, task.ref(letter)) for task in world for letter in task.letters]
        wanted = [ref for letter, ref in letters if letter.state == "open" or self._random.random() < 0.1]
        names = [task.name for task in world]
        match kind:
            case "redrive":
                refs = tuple(sorted(self._random.sample(wanted, min(len(wanted), self._random.randint(1, 2)))))
                self._edits += 1
                edit = self._edits if len(refs) == 1 and self._random.random() < 0.3 else 0
                return c.Redrive(refs, edit) if refs else None
            case "discard":
                return self._one([c.Discard(ref) for ref in wanted])
            case "answer":
                return self._one([c.Answer(task.ref(question)) for task in world for question in task.questions[-2:]])
            case "cancel":
                return self._one([c.Cancel(name) for name in names])
            case "pause":
                return self._one([c.Pause(name) for name in names])
            case "resume":
                return self._one([c.Resume(name) for name in names])
            case "deadline":
                return self._one([c.PassDeadline(name) for name in names])
            case _:
                return self._one([c.Prune(name) for name in names])

    def _submit(self) -> c.Command | None:
        if self._submitted >= self._task_limit:
            return None
        self._submitted += 1
        plan = None if self._random.random() < 0.25 else self._plan(5)
        return c.Submit(f"t{self._submitted}", plan, self._random.random() < 0.3)

    def _plan(self, limit: int) -> Plan:
        steps: list[dict[str, Any]] = []
        for index in range(self._random.randint(1, limit)):
            earlier = [step["id"] for step in steps]
            needs = self._random.sample(earlier, min(len(earlier), self._random.choice([0, 1, 1, 2])))
            steps.append(
                {
                    "id": "abcde"[index],
                    "agent": self._random.choice(["work", "work", "careful"]),
                    "needs": sorted(needs),
                    "optional": self._random.random() < 0.3,
                }
            )
        return Plan.model_validate({"steps": steps})

    def _settlement(self, ref: Ref, live: Step | None) -> Settlement:
        """By the step as its worker knows it, unless a heartbeat told the worker of a cancel."""
        step, plan = self._held[ref]
        if live is not None and live.stopping and self._random.random() < 0.7:
            return Abandon()
        output = {"step": ref.key, "epoch": ref.epoch}
        if self._random.random() < 0.6:
            return good(step, plan, self._team, output)
        if self._random.random() < 0.05:
            return Abandon(expired=self._random.random() < 0.5)
        others = bad(assignment(step), plan, self._team, output)
        # Every second one asks, refuses or buries: what has the most consequences.
        rare = [each for each in others if each.type in ("ask", "bury") or getattr(each, "rejected", False)]
        settlement = self._random.choice(rare if rare and self._random.random() < 0.5 else others)
        if settlement.type in ("return", "bury") and self._random.random() < 0.1:
            # What a sweeper decided that had seen the lease lapse, and comes to write it only now.
            return settlement.model_copy(update={"expired": True, "rejected": False, "output": None, "verdicts": ()})
        return settlement

    def _some(self, refs: Sequence[Ref], fresh: set[Ref], limit: int) -> tuple[Ref, ...]:
        """Without repetition; mostly those that are not too late."""
        current = [ref for ref in refs if ref in fresh]
        chosen = current if self._random.random() < 0.85 else list(refs)
        return tuple(sorted(set(self._random.sample(chosen, min(len(chosen), self._random.randint(1, limit))))))

    def _one(self, commands: Sequence[c.Command]) -> c.Command | None:
        return self._random.choice(commands) if commands else None
