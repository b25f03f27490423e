"""The shapes everything else agrees on: no I/O, no clock, no environment.

Writing an agent needs these names and no others.
"""

from contracts.context import ArtifactRef, Context
from contracts.outcomes import Done, Question, Retry, Unable
from contracts.plans import Plan, Step
from contracts.verdicts import Judgement, Reason, Result, Verdict

__all__ = [
    "ArtifactRef",
    "Context",
    "Done",
    "Judgement",
    "Plan",
    "Question",
    "Reason",
    "Result",
    "Retry",
    "Step",
    "Unable",
    "Verdict",
]
