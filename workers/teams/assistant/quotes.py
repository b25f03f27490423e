"""Gate of team `assistant`: what is quoted from the step's input or from a step it needs stands there, word for word.

Quotes of what a gate is not given (the task's input, artifacts, steps further back) are left to the reviewer.
"""

import json
from collections.abc import Iterator
from typing import Any

from contracts.verdicts import Reason
from workers.gates.subject import Subject, pointer


def check_quotes(subject: Subject) -> list[Reason]:
    material = {"input": subject.input, **{f"step:{key}": output for key, output in subject.inputs.items()}}
    reasons = []
    for index, evidence in enumerate(subject.output["evidence"]):
        source, quote = evidence["source"], _squeezed(evidence["quote"])
        if source in material and not any(quote in text for text in _texts(material[source])):
            reasons.append(
                Reason(
                    code="evidence.not_there",
                    where=pointer("evidence", index, "quote"),
                    text=f"these words do not stand in {source[:200]}",
                    expected="words exactly as they stand there, without dots for what is left out",
                )
            )
    return reasons


def _texts(material: Any) -> Iterator[str]:
    """The whole as a reading agent has seen it, then each text in it by itself."""
    yield _squeezed(json.dumps(material, ensure_ascii=False, indent=1))
    waiting = [material]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield _squeezed(value)
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _squeezed(text: str) -> str:
    """With single spaces: how lines are broken is not part of what they say."""
    return " ".join(text.split())
