"""The inspector: looks whether the invariants hold, and says so in the log: one line for each that does not."""

from itertools import groupby

import structlog

from orchestrator.loops.metrics import LoopMetrics
from shared_state.inspection import VIOLATION_LIMIT, Inspection, Inspector
from shared_state.verify import Violation

log = structlog.get_logger("loops")

IDS_TOLD = 3


def inspect_pass(inspector: Inspector, metrics: LoopMetrics | None = None) -> bool:
    """One pass. Never asks to be called again at once: what is wrong will still be in a minute."""
    inspection = inspector.inspect()
    if metrics is not None:
        metrics.inspected(inspection)
    if inspection is not None:
        _report(inspection)
    return False


def _report(inspection: Inspection) -> None:
    for _, group in groupby(inspection.violations, lambda each: each.invariant):
        _report_violated(list(group))
    if inspection.unchecked:
        log.warning("invariants.unchecked", names=inspection.unchecked, seconds=round(inspection.seconds, 3))
    elif not inspection.violations:
        log.debug("invariants.hold", tasks=inspection.task_count, seconds=round(inspection.seconds, 3))


def _report_violated(violations: list[Violation]) -> None:
    """Safety is a defect; liveness says that recovery is late. Texts are not told: a step's key is its author's."""
    first = violations[0]
    write = log.error if first.kind == "safety" else log.warning
    write(
        "invariant.violated",
        invariant=first.invariant,
        kind=first.kind,
        meaning=first.meaning,
        count=len(violations),
        more=len(violations) == VIOLATION_LIMIT,
        ids=[each.id for each in violations[:IDS_TOLD]],
    )
