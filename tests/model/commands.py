"""What can happen to the world: what people and processes do, and what time and the network do to them."""

from dataclasses import dataclass

from contracts.plans import Plan
from contracts.settlements import Settlement
from tests.model.rows import Ref


@dataclass(frozen=True)
class Submit:
    """With a plan, or for the planner to make one."""

    task: str
    plan: Plan | None
    deadline: bool = False


@dataclass(frozen=True)
class Claim:
    """A message arrives: in time, late, again, or after newer ones."""

    refs: tuple[Ref, ...]
    worker: str


@dataclass(frozen=True)
class Settle:
    """Workers commit what became of attempts, all in one transaction."""

    items: tuple[tuple[Ref, Settlement], ...]


@dataclass(frozen=True)
class Heartbeat:
    refs: tuple[Ref, ...]


@dataclass(frozen=True)
class Sweep:
    pass


@dataclass(frozen=True)
class ExpireWorker:
    """A supervisor saw this worker die."""

    worker: str


@dataclass(frozen=True)
class Relay:
    broker_up: bool = True


@dataclass(frozen=True)
class Stage:
    pass


@dataclass(frozen=True)
class Cancel:
    task: str


@dataclass(frozen=True)
class Pause:
    task: str


@dataclass(frozen=True)
class Resume:
    task: str


@dataclass(frozen=True)
class Redrive:
    letters: tuple[Ref, ...]
    edit: int = 0


@dataclass(frozen=True)
class Discard:
    letter: Ref


@dataclass(frozen=True)
class Answer:
    question: Ref


@dataclass(frozen=True)
class Prune:
    """Retention has passed for this task, if it has ended."""

    task: str


@dataclass(frozen=True)
class Lapse:
    """Time: a lease runs out."""

    ref: Ref


@dataclass(frozen=True)
class Mature:
    """Time: a backoff is over."""

    ref: Ref


@dataclass(frozen=True)
class Outdate:
    """Time: a published entry has stayed unclaimed for long."""

    ref: Ref


@dataclass(frozen=True)
class PassDeadline:
    """Time: a task's deadline."""

    task: str


Command = (
    Submit | Claim | Settle | Heartbeat | Sweep | ExpireWorker | Relay | Stage | Cancel | Pause | Resume | Redrive
    | Discard | Answer | Prune | Lapse | Mature | Outdate | PassDeadline
)  # fmt: skip


def tell(command: Command) -> str:
    """One line for people; what is as usual is left out."""
    match command:
        case Submit(task=task, plan=plan):
            steps = plan.model_dump(mode="json", exclude_defaults=True)["steps"] if plan else "by a planner"
            return f"Submit({task}: {steps}{', with a deadline' if command.deadline else ''})"
        case Settle(items=items):
            return f"Settle({', '.join(f'{name(ref)}: {_settlement(settlement)}' for ref, settlement in items)})"
        case Claim(refs=refs, worker=worker):
            return f"Claim({', '.join(map(name, refs))} by {worker})"
        case Heartbeat(refs=refs):
            return f"Heartbeat({', '.join(map(name, refs))})"
        case Lapse(ref=ref) | Mature(ref=ref) | Outdate(ref=ref):
            return f"{type(command).__name__}({name(ref)})"
        case _:
            return str(command)


def name(ref: Ref) -> str:
    return f"{ref.task}.{ref.key}@{ref.epoch}"


def _settlement(settlement: Settlement) -> str:
    fields = settlement.model_dump(mode="json", exclude_defaults=True, exclude={"type", "verdicts", "feedback"})
    if "failure" in fields:
        fields["failure"] = fields["failure"]["code"]
    return f"{type(settlement).__name__}({', '.join(f'{name}={value}' for name, value in fields.items())})"
