"""Errors: one root, every leaf a code, whether trying again can help, and a text that is safe to show to anyone.

`CODES` is the closed list of codes that an attempt can end with or a dead letter can carry: what each means and
what to do about it. Agents may add codes of their own under `agent.`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field


class OrchestratorError(Exception):
    """The root of every error this project raises on purpose.

    `text` is shown to callers and models as it stands: it names what is wrong and the remedy, and never holds a
    stack trace, a secret or raw output of an agent.
    """

    code = "internal"
    retryable = False

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class InvalidInput(OrchestratorError):
    """What the caller sent breaks a rule. `field` is a dotted path into it, empty where the whole is wrong."""

    code = "invalid"

    def __init__(self, text: str, *, field: str = "") -> None:
        super().__init__(text)
        self.field = field


class NotFound(OrchestratorError):
    code = "not_found"


class Conflict(OrchestratorError):
    """The thing exists but is not in a state that allows this."""

    code = "conflict"


class Misconfigured(OrchestratorError):
    code = "misconfigured"


class Unavailable(OrchestratorError):
    """A part we depend on (Postgres, broker, API, disk) does not answer; trying later may help."""

    code = "unavailable"
    retryable = True


class AgentError(OrchestratorError):
    """Raised by an agent to fail with a code of its own: `code` starts with `agent.`, `text` is shown to people.

    `retryable=False` ends the step at once, whatever the retry table says.
    """

    def __init__(self, code: str, text: str, *, retryable: bool = True) -> None:
        super().__init__(text)
        self.code = code
        self.retryable = retryable


class InvalidMessage(OrchestratorError):
    """Bytes on a queue that are not a valid, signed, known message. `reason` is one of the `message.*` codes."""

    code = "message.envelope"

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.code = reason


class Failure(BaseModel):
    """How an attempt failed: what is stored, sent between processes and shown.

    `text` is safe to show; `detail` (a traceback, the tail of an output) is for operators only and never leaves
    the attempt's record. `retryable` is null unless whoever failed knows better than the code does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: str = Field(max_length=100)
    text: str = Field(max_length=4000)
    detail: str | None = Field(default=None, max_length=20_000)
    retryable: bool | None = None

    @property
    def can_retry(self) -> bool:
        """Whether trying again can help."""
        return retryable(self.code) if self.retryable is None else self.retryable


@dataclass(frozen=True)
class Code:
    retryable: bool
    meaning: str
    remedy: str


CODES: Mapping[str, Code] = {
    "agent.error": Code(True, "The agent raised an exception.", "Read the attempt's detail; mend the agent or input."),
    "agent.crashed": Code(True, "The agent's process died.", "Read the exit status and the log tail of the attempt."),
    "agent.unable": Code(False, "The agent said it cannot do this safely.", "Read its reason; change input or team."),
    "agent.not_importable": Code(
        True, "The worker cannot import the agent's code.", "Install the code where the worker runs, then redrive."
    ),
    "agent.unknown": Code(False, "The team has no such agent.", "Apply a team that has it, or discard."),
    "agent.input": Code(
        False, "The step's input does not fit the agent.", "Read the text; redrive with another input."
    ),
    "agent.output": Code(True, "The agent's output cannot be stored as JSON.", "Read the text; mend the agent."),
    "agent.protocol": Code(
        True, "A command agent's answer is not the documented JSON.", "Compare its output with docs/agents.md."
    ),
    "model.refused": Code(
        False, "The model refused.", "Read its answer in the calls of the step; change input or prompt."
    ),
    "model.filtered": Code(
        False, "A content filter of the provider stopped question or answer.", "Change the input, or the model."
    ),
    "model.cut_off": Code(
        False, "The model's answers reached the limit of output tokens.", "Raise max_tokens or make the step smaller."
    ),
    "model.empty": Code(True, "The model's answer was empty.", "Read the calls of the step; mend the prompt."),
    "model.unknown_tool": Code(
        True, "The model called a tool that it does not have.", "Read the calls; name the tools in the prompt."
    ),
    "model.tool_arguments": Code(
        True, "The model called a tool with arguments that are no JSON object.", "Read the calls; try another model."
    ),
    "model.fenced_json": Code(
        True, "The model put its JSON into a code fence or between other text.", "Ask for bare JSON in the prompt."
    ),
    "model.half_json": Code(True, "The model's JSON was not complete.", "Raise max_tokens; try another model."),
    "model.no_json": Code(True, "The model answered with text where JSON was due.", "Mend the prompt."),
    "model.hosted_tool": Code(
        False, "The provider ran a tool of its own.", "Name a model without built-in search or other tools."
    ),
    "model.unfinished": Code(True, "The provider put the answer off.", "Switch off background mode; then redrive."),
    "model.unknown_finish": Code(
        True, "The answer ended for a reason that is not known.", "Read the attempt's detail; ask the provider."
    ),
    "model.error_in_answer": Code(
        True, "The provider reported an error inside an answer.", "Read the attempt's detail; redrive later."
    ),
    "model.tool_rejected": Code(
        True, "The provider refused a tool call that the model had made.", "Read the detail; mend the prompt."
    ),
    "model.rate_limited": Code(
        True, "The provider's rate limit was reached.", "Redrive later; ask for a higher limit or run fewer at once."
    ),
    "model.quota": Code(False, "The account's quota, credit or limit is used up.", "Top it up, then redrive."),
    "model.overloaded": Code(True, "The provider is overloaded or not available.", "Redrive later."),
    "model.server_error": Code(True, "The provider failed.", "Redrive later; look at the provider's status page."),
    "model.timeout": Code(True, "The provider did not answer in time.", "Raise the call's timeout; redrive later."),
    "model.unreachable": Code(True, "The provider could not be reached.", "Check base_url, network and proxy."),
    "model.cut_stream": Code(
        True, "The connection ended before the answer was complete.", "Check network and proxy; redrive."
    ),
    "model.not_json": Code(
        True, "Something that is not JSON came instead of an answer.", "Check base_url; look for a proxy's error page."
    ),
    "model.malformed": Code(
        True,
        "The provider's answer does not have the documented form.",
        "Read the detail; check base_url, or stream = false.",
    ),
    "model.redirected": Code(
        False, "The provider's address answers with a redirect.", "Set base_url to the address it names."
    ),
    "model.auth": Code(
        False, "The provider did not accept the credentials, or not for this model.", "Check the key and its rights."
    ),
    "model.not_found": Code(
        False, "The provider has no such model, or the address is wrong.", "Check the model's name and base_url."
    ),
    "model.context_window": Code(
        False, "The conversation is longer than the model can take.", "Make the input smaller or name another model."
    ),
    "model.bad_request": Code(
        False, "The provider refused the request as invalid.", "Read the attempt's detail; mend the agent's settings."
    ),
    "model.unsupported": Code(
        False, "The call needs something that is not supported here.", "Read the text; change the agent's settings."
    ),
    "bound.time": Code(True, "The attempt ran past its timeout.", "Raise timeout_seconds or make the step smaller."),
    "bound.memory": Code(True, "The attempt needed more memory than allowed.", "Raise memory_mb or make it smaller."),
    "bound.output": Code(False, "The attempt wrote more than allowed.", "Print less; return large data as artifacts."),
    "model.not_configured": Code(
        False, "No model is named, or its key cannot be found.", "Set what the text says, then redrive."
    ),
    "model.prompt": Code(False, "The prompt names what the step does not have.", "Mend the prompt or the input."),
    "bound.turns": Code(
        False,
        "The model was asked as often as allowed.",
        "Read `step ID --calls`; raise limits.turns or mend the prompt.",
    ),
    "bound.tool_calls": Code(
        False, "The model asked for more tool calls than allowed.", "Read `step ID --calls`; raise limits.tool_calls."
    ),
    "bound.tokens": Code(
        False, "The step's tokens are used up.", "Read `step ID --calls`; raise limits.input_tokens or output_tokens."
    ),
    "bound.identical_requests": Code(
        False, "The model asked for the same thing again and again.", "Read `step ID --calls`; mend prompt or tool."
    ),
    "bound.unparsable": Code(
        False,
        "Too many answers in a row could not be used.",
        "Read `step ID --calls`; mend the prompt, try another model.",
    ),
    "bound.questions": Code(
        False, "The step asked more questions than allowed.", "Raise bounds.questions or mend the agent."
    ),
    "agent.retry": Code(True, "The agent asked to be tried again later, too often.", "Read its reason, then redrive."),
    "gate.rejected": Code(False, "The gates refused every output.", "Read the verdicts; mend agent, input or gate."),
    "gate.abstained": Code(
        True, "A gate could not decide.", "Read the verdict's reasons; a gate never passes by error."
    ),
    "review.rejected": Code(False, "The reviewer refused every output.", "Read the reviews; mend the agent or input."),
    "plan.invalid": Code(False, "No proposed plan was acceptable.", "Read the reasons; mend the planner or its input."),
    "lease.expired": Code(True, "The worker stopped answering while it held the step.", "Look at the worker's log."),
    "lease.lost": Code(True, "The worker could not reach Postgres in time and stopped the work.", "Check the network."),
    "worker.died": Code(True, "The worker's process ended while it held the step.", "Look at the worker's log."),
    "worker.stopped": Code(True, "The worker was stopped before the step ended.", "Nothing: it is tried elsewhere."),
    "step.input_missing": Code(False, "A step was claimed without an input it needs.", "Report this as a defect."),
    "task.cancelled": Code(False, "The task was cancelled.", "Nothing."),
    "task.deadline": Code(False, "The task did not end before its deadline.", "Submit again with a later deadline."),
    "message.undecodable": Code(False, "Bytes on a queue are not a message.", "Find who writes to the broker."),
    "message.envelope": Code(False, "A message does not have the documented form.", "Find its sender; discard."),
    "message.too_large": Code(False, "A message is larger than allowed.", "Find its sender; discard."),
    "message.signature": Code(False, "A message's signature is missing or wrong.", "Check the signing keys."),
    "message.version": Code(False, "A message has a version this worker does not know.", "Finish the upgrade."),
    "message.kind": Code(False, "A message has an unknown kind.", "Finish the upgrade, or find its sender."),
    "message.handler": Code(False, "A message names no handler of ours.", "Find who writes to the broker."),
    "internal": Code(True, "The orchestrator itself failed.", "Report this with the attempt's detail."),
}


def retryable(code: str) -> bool:
    """Whether trying again can help. Codes that agents made up are retryable unless they raised `Unable`."""
    known = CODES.get(code)
    return True if known is None else known.retryable
