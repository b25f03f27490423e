"""What people read: the JSON shapes that views make, the API sends and the client gets. JSON types only.

Ids are UUIDs as text, times are RFC 3339 in UTC. Imports nothing heavy: the client needs it too.
"""

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict


class Usage(TypedDict):
    model_calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None


class ErrorText(TypedDict):
    """`step` is the key of the step that broke the task; `detail` is for those who may operate."""

    code: str
    text: str
    step: NotRequired[str]
    detail: NotRequired[str]


class Fork(TypedDict):
    """What a task was forked from: `step` is the id in the plan of the step that runs anew, by which `actor`.

    The task it names may be gone: it is pruned like any other.
    """

    task_id: str
    step: str
    actor: str
    edited: bool


class Task(TypedDict):
    id: str
    team: str
    team_digest: str
    state: str
    degraded: bool
    goal: str
    labels: dict[str, str]
    step_count: int
    step_counts: dict[str, int]
    usage: Usage
    error: ErrorText | None
    forked_from: Fork | None
    created_at: str
    deadline_at: str | None
    cancel_requested_at: str | None
    finished_at: str | None


class Pause(TypedDict):
    """Of a task (`task_id`), of a team, or of one agent of a team. `held` steps wait for its end."""

    task_id: str | None
    team: str
    agent: str | None
    reason: str
    paused_by: str
    paused_at: str
    held: int


class TaskDetail(Task):
    """`pauses` are those that concern it: its own, its team's and those of agents of its team. `trace_id` is that of
    the trace in which the task was submitted, in hexadecimal, where there is one."""

    input: Any
    pauses: list[Pause]
    trace_id: str | None


class Step(TypedDict):
    """`shared_from`, in a fork: the id of the step, of another task, that ran and made the output this one has."""

    id: str
    task_id: str
    key: str
    role: str
    agent: str
    reviewer: str | None
    queue: str
    state: str
    optional: bool
    degraded: str | None
    shared_from: str | None
    rank: int
    epoch: int
    attempt_count: int
    rejection_count: int
    question_count: int
    worker: str | None
    due_at: str | None
    created_at: str
    ready_at: str | None
    finished_at: str | None


class ModelCall(TypedDict):
    """One call to a model. `ending` is what came of it; `kept`: its answer is part of the conversation."""

    epoch: int
    ordinal: int
    agent: str
    model: str
    settings: Any
    ending: str
    kept: bool
    tool_calls: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    seconds: float
    ended_at: str
    request_sha256: str
    response_sha256: str | None


class ModelCallBodies(ModelCall):
    """The same with what was sent (model, settings, tools, messages) and what came (null where nothing did)."""

    request: Any
    response: Any


class Attempt(TypedDict):
    epoch: int
    attempt: int
    role: str
    agent: str
    worker: str
    state: str
    started_at: str
    finished_at: str | None
    seconds: float | None
    error: ErrorText | None
    verdicts: Any
    progress: Any
    log_tail: str | None
    code_hash: str | None


class Proposal(TypedDict):
    epoch: int
    state: str
    body: Any
    degraded: str | None
    created_at: str


class Event(TypedDict):
    cursor: str
    type: str
    step_id: str | None
    step_key: str | None
    epoch: int | None
    data: Any
    at: str


class QueueEntry(TypedDict):
    """The outbox row of a step that is ready: when it was published, and how often."""

    kind: str
    queue: str
    epoch: int
    created_at: str
    published_at: str | None
    publish_count: int


class Held(TypedDict):
    """Why a step that is ready may not begin: a `pause`, or the `limit` of its agent; `since` it was to."""

    by: Literal["pause", "limit"]
    since: str


class Question(TypedDict):
    id: str
    task_id: str
    step_id: str
    step_key: str
    text: str
    state: str
    answer: str | None
    asked_at: str
    answered_at: str | None
    answered_by: str | None


class DeadLetter(TypedDict):
    """`raw_size_bytes` and what follows it belong to bytes found on a queue; they have no task and no step."""

    id: str
    state: str
    reason: str
    text: str
    meaning: str
    remedy: str
    task_id: str | None
    task_state: str | None
    step_id: str | None
    step_key: str | None
    step_state: str | None
    agent: str | None
    team: str | None
    epoch: int | None
    queue: str | None
    raw_size_bytes: int | None
    raw_sha256: str | None
    created_at: str
    closed_at: str | None
    closed_by: str | None
    close_reason: str | None


class DeadLetterTask(TypedDict):
    id: str
    team: str
    team_digest: str
    state: str
    goal: str
    error: ErrorText | None
    finished_at: str | None


class Blocked(TypedDict):
    """A step that needs the dead one, directly or through others."""

    step_id: str
    step_key: str
    agent: str
    state: str


class Edit(TypedDict):
    """`before` and `after` are inputs of the step; a message written anew has no `before`."""

    editor: str
    edited_at: str
    before: Any
    after: Any


class Note(TypedDict):
    author: str
    written_at: str
    text: str


class WebhookState(TypedDict):
    """Whether the webhook was told: `sent_at`, or `due_at` where it is still to be; `count` tries so far."""

    sent_at: str | None
    due_at: str | None
    count: int
    error: str | None


class DeadLetterDetail(DeadLetter):
    """Everything about one dead letter, with the story of its step.

    `message` is what lay on the queue: the step and epoch it named, or what can be read of the bytes. `raw_base64` may
    hold only the beginning of larger bytes. Bytes, headers, error details and logs are for those who may operate.
    """

    message: Any
    headers: Any
    raw_base64: str | None
    task: DeadLetterTask | None
    step_input: Any
    feedback: Any
    attempts: list[Attempt]
    proposals: list[Proposal]
    model_calls: list[ModelCall]
    blocks: list[Blocked]
    edits: list[Edit]
    notes: list[Note]
    webhook: WebhookState


class DeadLetterCount(TypedDict):
    reason: str
    count: int
    first_at: str
    last_at: str
    meaning: str
    remedy: str


class ReasonCode(TypedDict):
    """`retryable`: whether steps are tried again by themselves before they become dead letters with this reason."""

    code: str
    retryable: bool
    meaning: str
    remedy: str


class StepDetail(Step):
    """`trace_id` is the hexadecimal trace id of the task's W3C trace context."""

    input: Any
    output: Any
    accepted_at: str | None
    feedback: Any
    needs: list[str]
    attempts: list[Attempt]
    proposals: list[Proposal]
    questions: list[Question]
    model_calls: list[ModelCall]
    dead_letters: list[DeadLetter]
    message: QueueEntry | None
    held: Held | None
    events: list[Event]
    trace_id: str | None


class Result(TypedDict):
    """`outputs` holds the accepted output of every step that no other step needs, by the step's id in the plan.

    `missing` names those of them that have none, with their state.
    """

    task_id: str
    team: str
    state: str
    degraded: bool
    error: ErrorText | None
    outputs: dict[str, Any]
    missing: dict[str, str]


class Worker(TypedDict):
    name: str
    host: str
    pid: int
    queues: list[str]
    slots: int
    busy: int
    state: str
    started_at: str
    seen_at: str
    drain_requested_at: str | None
    drain_requested_by: str | None


class Limit(TypedDict):
    """An agent of which at most `concurrency` steps run at once; `held` wait for a place."""

    team: str
    agent: str
    concurrency: int
    running: int
    held: int


class Moves(TypedDict):
    """What attempts of one queue have begun, and failed, between two overviews."""

    queue: str
    begun: int
    failed: int


class Oldest(TypedDict):
    """A step that runs, or is ready, for long. `since` it began, or became ready."""

    step_id: str
    task_id: str
    team: str
    key: str
    agent: str
    state: str
    worker: str | None
    since: str


class Queue(TypedDict):
    """Steps of the caller's tenant by queue. `waiting`: their turn has not come. `published`: it has, and workers are
    sent for; whether the broker has taken that, or it will be sent again, nobody knows before a worker comes. `depth`
    is what the broker holds for everyone; null: it did not answer.

    `republished` of the `published` were published more than once: a backlog, or messages that were lost. `paused` and
    `limited` are ready too, and may not begin: nobody is sent for them.
    """

    queue: str
    waiting: int
    published: int
    republished: int
    running: int
    paused: int
    limited: int
    oldest_seconds: float | None
    worker_count: int
    depth: int | None


class Overview(TypedDict):
    """`tasks` are those that have not ended, by state; `moves` is null without an earlier overview to count from, whose
    `cursor` that is. Queues have no `depth` here: the broker is not asked."""

    at: str
    cursor: str
    tasks: dict[str, int]
    queues: list[Queue]
    moves: list[Moves] | None
    workers: list[Worker]
    oldest: list[Oldest]
    dead_letters: list[DeadLetterCount]
    pauses: list[Pause]
    limits: list[Limit]


class Team(TypedDict):
    name: str
    digest: str
    description: str
    agents: dict[str, str]
    applied_at: str


class TeamDetail(Team):
    definition: Any
    digests: list[str]


class Created(TypedDict):
    id: str
    replayed: bool


class Refused(TypedDict):
    problem: "Problem"


class Problem(TypedDict):
    """RFC 9457. `code` is what programs compare; `field` is a dotted path into what was sent."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    field: NotRequired[str]
    errors: NotRequired[list["FieldError"]]


class FieldError(TypedDict):
    field: str
    text: str


class RefusedRedrive(TypedDict):
    id: str
    code: str
    text: str


class Redriven(TypedDict):
    """`unchanged` had been closed before: a second click changes nothing. `refused` cannot be put back, with why.

    With `dry_run` nothing was done: it says what would be. `seconds` is how long the last one waits for its turn where
    a rate was given, else 0.
    """

    redriven: list[str]
    unchanged: list[str]
    refused: list[RefusedRedrive]
    dry_run: bool
    seconds: float


class Health(TypedDict):
    status: Literal["ok"]


class Readiness(TypedDict):
    """`degraded`: without the broker tasks are accepted and kept, but nothing is delivered until it is back; with too
    little disk or too much backlog only reads are served, and what ends work."""

    status: Literal["ready", "degraded"]
    database: str
    broker: str
    disk: str
    backlog: str
