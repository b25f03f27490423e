"""Team `assistant` without a model: its gate."""

from typing import Any

import pytest

from workers.gates import Subject, run_gates

GATE = "workers.teams.assistant.quotes:check_quotes"
INPUT = {"instruction": "Name the port.\nAnd the host.", "done_when": "both are named"}
INPUTS = {"read": {"answer": 'It listens on "8080",\n  always.', "evidence": [], "missing": []}}


def judged(source: str, quote: str) -> Any:
    output = {"answer": "8080", "evidence": [{"claim": "port", "source": source, "quote": quote}], "missing": []}
    return run_gates([GATE], Subject(agent="work", output=output, input=INPUT, inputs=INPUTS))[-1]


@pytest.mark.parametrize(
    ("source", "quote"),
    [
        ("step:read", 'listens on "8080", always.'),
        ("step:read", 'listens on \\"8080\\"'),
        ("step:read", '"missing": []'),
        ("input", "port. And the host"),
        ("task", "whatever it says"),
        ("calculate", "1 + 1 = 2"),
    ],
)
def test_a_quote_that_stands_there_passes(source: str, quote: str) -> None:
    verdict = judged(source, quote)
    assert (verdict.gate, verdict.result) == (GATE, "pass")


@pytest.mark.parametrize(("source", "quote"), [("step:read", "listens on 8081"), ("input", "It listens on")])
def test_a_quote_that_does_not_is_refused_with_its_place(source: str, quote: str) -> None:
    verdict = judged(source, quote)
    assert verdict.result == "fail"
    (reason,) = verdict.reasons
    assert (reason.code, reason.where) == ("evidence.not_there", "/evidence/0/quote")
    assert source in reason.text
