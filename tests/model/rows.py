"""The rows of the model: one immutable task holds everything that is its own."""

from typing import Literal, NamedTuple

from contracts.states import AttemptState, DeadLetterState, QuestionState, StepState

OPEN_STEPS = frozenset({StepState.BLOCKED, StepState.READY, StepState.RUNNING, StepState.REVIEWING, StepState.WAITING})
GIVEN_UP = frozenset({StepState.DEAD, StepState.FAILED})


class Ref(NamedTuple):
    """Names an attempt, a message, a question or a dead letter: they all are of one step at one epoch."""

    task: str
    key: str
    epoch: int


class Step(NamedTuple):
    key: str
    agent: str = "work"
    needs: tuple[str, ...] = ()
    optional: bool = False
    reviewer: str | None = None
    state: StepState = StepState.BLOCKED
    epoch: int = 0
    attempts: int = 0
    rejections: int = 0
    questions: int = 0
    lease: Literal["held", "lapsed"] | None = None
    worker: str | None = None
    due: Literal["later", "over"] | None = None
    """A backoff that is still running, or over and not yet staged."""
    stopping: bool = False
    """The task was cancelled while this step was open."""
    degraded: bool = False
    feedback: str | None = None
    """Code of the newest reason for a refusal."""
    edit: int = 0
    """Which redrive's input it has; 0 is the plan's own."""


class Attempt(NamedTuple):
    key: str
    epoch: int
    role: str
    number: int
    worker: str
    state: AttemptState = AttemptState.RUNNING
    error: str | None = None
    inputs: tuple[tuple[str, int], ...] = ()
    """What it was given to read: the steps it needs, and the epoch of the accepted output of each."""


class Output(NamedTuple):
    """An accepted output, under the epoch of the attempt that made it."""

    key: str
    epoch: int


class Proposal(NamedTuple):
    key: str
    epoch: int
    state: Literal["pending", "accepted", "rejected"] = "pending"
    degraded: bool = False


class Letter(NamedTuple):
    key: str
    epoch: int
    reason: str
    turn: int
    """How many letters the task had before the transaction that opened this one: the order in time, as far as any."""
    state: DeadLetterState = DeadLetterState.OPEN


class Question(NamedTuple):
    key: str
    epoch: int
    state: QuestionState = QuestionState.OPEN


class Entry(NamedTuple):
    """The queue entry of a step that could be claimed."""

    key: str
    epoch: int
    kind: str
    published: bool = True
    late: bool = False
    """Published so long ago that its message may be lost."""
    parked: bool = False
    """Set apart, because its task was paused when somebody wanted to send for it or to claim it."""


class Task(NamedTuple):
    name: str
    planner: bool = False
    planned: bool = True
    steps: tuple[Step, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    outputs: tuple[Output, ...] = ()
    proposals: tuple[Proposal, ...] = ()
    letters: tuple[Letter, ...] = ()
    questions: tuple[Question, ...] = ()
    entries: tuple[Entry, ...] = ()
    stopped: Literal["task.cancelled", "task.deadline"] | None = None
    deadline: Literal["ahead", "passed"] | None = None
    paused: bool = False

    def step(self, key: str) -> Step:
        return next(step for step in self.steps if step.key == key)

    def entry(self, key: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.key == key), None)

    def output(self, key: str) -> Output | None:
        return next((output for output in self.outputs if output.key == key), None)

    def with_step(self, step: Step) -> "Task":
        return self._replace(steps=tuple(step if each.key == step.key else each for each in self.steps))

    def without_entry(self, key: str) -> "Task":
        return self._replace(entries=tuple(entry for entry in self.entries if entry.key != key))

    def ref(self, row: Step | Attempt | Letter | Question | Entry) -> Ref:
        return Ref(self.name, row.key, row.epoch)


World = tuple[Task, ...]


def find(world: World, name: str) -> Task | None:
    """None for a task that was pruned, or never was."""
    return next((task for task in world if task.name == name), None)
