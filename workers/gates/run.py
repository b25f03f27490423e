"""Runs gates in order and turns whatever they do into verdicts."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

from contracts.verdicts import Reason, Result, Verdict
from workers.gates.files import check_files
from workers.gates.schema import check_schema
from workers.gates.subject import Subject

Gate = Callable[[Subject], object]
"""A pure function. It returns a `Verdict`, or the reasons against the output as a list (empty: it passes)."""

SCHEMA = "schema"
BUILT_IN: Mapping[str, Gate] = {SCHEMA: check_schema, "files": check_files}
TIMEOUT_SECONDS = 60.0
REASONS_LIMIT = 50


def run_gates(
    names: Sequence[str], subject: Subject, *, timeout_seconds: float = TIMEOUT_SECONDS
) -> tuple[Verdict, ...]:
    """One verdict per gate that ran: the schema gate first, then `names`, up to the first that did not pass."""
    verdicts: list[Verdict] = []
    for name in (SCHEMA, *(name for name in dict.fromkeys(names) if name != SCHEMA)):
        verdicts.append(_run_one(name, subject, timeout_seconds))
        if verdicts[-1].result is not Result.PASS:
            break
    return tuple(verdicts)


def check_names(names: Sequence[str]) -> list[str]:
    """Those of `names` that are neither a built-in gate nor written as `module:function`."""
    return [name for name in names if ":" not in name and name not in BUILT_IN]


def _run_one(name: str, subject: Subject, timeout_seconds: float) -> Verdict:
    started = time.monotonic()
    try:
        gate = _find(name)
        # The schema gate runs for every output and cannot hang: a thread would cost more than the gate.
        answer = gate(subject) if name == SCHEMA else _run_in_thread(gate, subject, timeout_seconds)
        verdict = _verdict(name, answer)
    except TimeoutError:
        verdict = _abstain(name, "gate.timeout", f"the gate did not answer within {timeout_seconds:g} s")
    except _Undecided as undecided:
        verdict = _abstain(name, undecided.code, str(undecided))
    except BaseException as error:  # the edge: whatever a gate does, it must not let an output through
        verdict = _abstain(name, "gate.error", f"the gate raised {type(error).__name__}")
    return verdict.model_copy(update={"seconds": time.monotonic() - started})


class _Undecided(Exception):
    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def _find(name: str) -> Gate:
    if ":" not in name:
        if name not in BUILT_IN:
            known = ", ".join(sorted(BUILT_IN))
            raise _Undecided("gate.unknown", f"there is no built-in gate of this name; there are: {known}")
        return BUILT_IN[name]
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise _Undecided("gate.not_importable", f"the gate cannot be imported ({type(error).__name__})") from error
    if not callable(found):
        raise _Undecided("gate.not_importable", "the gate is not a function")
    gate: Gate = found
    return gate


def _run_in_thread(gate: Gate, subject: Subject, timeout_seconds: float) -> object:
    """Run a gate with a deadline. One that never ends keeps its (daemon) thread: threads cannot be killed."""
    answers: list[object] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            answers.append(gate(subject))
        except BaseException as error:  # carried over to the thread that waits
            errors.append(error)

    thread = threading.Thread(target=body, name="gate", daemon=True)
    thread.start()
    thread.join(timeout_seconds)
    if errors:
        # A gate's own TimeoutError is an error of the gate, not our deadline.
        raise RuntimeError(type(errors[0]).__name__) if isinstance(errors[0], TimeoutError) else errors[0]
    if not answers:
        raise TimeoutError
    return answers[0]


def _verdict(name: str, answer: object) -> Verdict:
    if isinstance(answer, Verdict):
        return answer.model_copy(update={"gate": name[:200]})
    if isinstance(answer, list | tuple) and all(isinstance(reason, Reason) for reason in answer):
        result = Result.FAIL if answer else Result.PASS
        return Verdict(gate=name[:200], result=result, reasons=tuple(answer[:REASONS_LIMIT]))
    raise _Undecided("gate.error", f"the gate returned {type(answer).__name__}; it must return a Verdict or reasons")


def _abstain(name: str, code: str, text: str) -> Verdict:
    return Verdict(gate=name[:200], result=Result.ABSTAIN, reasons=(Reason(code=code, text=text[:2000]),))
