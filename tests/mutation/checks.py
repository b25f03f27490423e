"""Guards in Python: named checks by the exact text that is replaced, in a copy that only the test process sees."""

from typing import NamedTuple

UNIT = ("tests/unit/test_policy.py",)
DATABASE = (
    "tests/integration/test_fencing.py",
    "tests/integration/test_second_guards.py",
    "tests/integration/test_transitions.py",
)
FORKS = ("tests/unit/test_forks.py", "tests/integration/test_forks.py")
DEAD_LETTERS = ("tests/integration/test_dead_letters.py",)
RULES = ("tests/integration/test_rules.py",)
COLLECT = ("tests/integration/test_collect.py",)
REFINEMENT = ("tests/integration/test_refinement.py",)


class Check(NamedTuple):
    """`tests` are those that are responsible, the quickest first."""

    module: str
    text: str
    replacement: str
    tests: tuple[str, ...]

    def mutated(self, source: str) -> str:
        """Raises `ValueError` unless the text is there exactly once."""
        if source.count(self.text) != 1:
            raise ValueError(f"{self.module} has {source.count(self.text)} times, not once: {self.text!r}")
        return source.replace(self.text, self.replacement)


def _policy(text: str, replacement: str) -> Check:
    return Check("contracts.policy", text, replacement, (*UNIT, "tests/unit/test_model_exploration.py"))


def _shared(module: str, text: str, replacement: str) -> Check:
    more = DEAD_LETTERS if module == "dead_letters" else ()
    return Check(f"shared_state.{module}", text, replacement, (*DATABASE, *more, *REFINEMENT))


CHECKS: dict[str, Check] = {
    # contracts/policy.py: what an outcome may become
    "policy: attempts are bounded": _policy(" or assignment.attempt >= rule.attempts:", ":"),
    "policy: what cannot be retried is not": _policy("if not failure.can_retry or ", "if "),
    "policy: a stopped worker's step is not to blame": _policy('if failure.code == "worker.stopped":', "if False:"),
    "policy: a lapsed lease waits for nothing": _policy("0.0 if expired else after_seconds", "after_seconds"),
    "policy: rejections are bounded": _policy("if assignment.rejections >= team.bounds.rejections:", "if False:"),
    "policy: questions are bounded": _policy("if assignment.questions >= team.bounds.questions:", "if False:"),
    "policy: a reviewer cannot ask": _policy(
        "if assignment.role is Role.REVIEWER:\n                failure", "if False:\n                failure"
    ),
    "policy: only reviewers judge": _policy("if assignment.role is not Role.REVIEWER:", "if False:"),
    "policy: only planners plan": _policy("if assignment.role is not Role.PLANNER:", "if False:"),
    "policy: only executors hand in outputs": _policy("if assignment.role is not Role.EXECUTOR:", "if False:"),
    "policy: a wrong plan is refused": _policy("            if wrong:\n", "            if False:\n"),
    "policy: a failed gate refuses": _policy("    if failed:\n", "    if False:\n"),
    "policy: an abstention lets nothing through": _policy("    if abstained:\n", "    if False:\n"),
    "policy: a refused output is not accepted": _policy("if refused is not None:", "if False:"),
    "policy: a reviewed output is proposed": _policy("if assignment.reviewer is not None:", "if False:"),
    "policy: a judgement may refuse": _policy("if judgement.accepted:", "if True:"),
    # contracts/plans.py: what a plan may be
    **{
        f"plan: {name}": Check(
            "contracts.plans", text, replacement, ("tests/unit/test_policy.py", "tests/unit/test_plans.py")
        )
        for name, text, replacement in (
            ("it has steps", "if not plan.steps:", "if False:"),
            ("steps are bounded", "if len(plan.steps) > team.bounds.steps:", "if False:"),
            ("ids are used once", "if step.id in known:", "if False:"),
            ("no cycle", "if len(ranks) < len(plan.steps):", "if False:"),
            ("depth is bounded", "if depth > team.bounds.depth:", "if False:"),
            ("agents are known", "if agent is None:", "if False:"),
            ("agents are executors", "elif agent.role is not Role.EXECUTOR:", "elif False:"),
            ("reviewers are reviewers", "reviewer is None or reviewer.role is not Role.REVIEWER:", "reviewer is None:"),
            ("needs are known", "if need not in known:", "if False:"),
            ("no step needs itself", "elif need == step.id:", "elif False:"),
        )
    },
    # shared_state: what is decided around the statements
    "cancel: not what has ended": _shared("tasks", 'if state in ("succeeded", "failed"):', "if False:"),
    "cancel: only once": _shared("tasks", 'if state in ("cancelling", "cancelled"):', "if False:"),
    "cancel: the tenant's own": _shared(
        "tasks", "where id = %(id)s and tenant_id = %(tenant)s for no", "where id = %(id)s for no"
    ),
    "cancel: what nobody holds is cleared": _shared(
        "tasks", '    run(connection, "clear_cancelled", task_id=task_id)\n', ""
    ),
    "cancel: and then it may be over": _shared("tasks", '    run(connection, "settle_tasks", ids=[task_id])\n', ""),
    "deadline: only when it has passed": _shared(
        "tasks", "deadline_at < clock_timestamp() and finished_at", "deadline_at is not null and finished_at"
    ),
    "deadline: not what has ended": _shared(
        "tasks", "clock_timestamp() and finished_at is null\n", "clock_timestamp()\n"
    ),
    "deadline: not what is cancelled": _shared(
        "tasks", "            and cancel_requested_at is null order", "            order"
    ),
    "submit: a key is taken once": _shared("tasks", "    if taken:\n", "    if True:\n"),
    "submit: a key is of one body": _shared("tasks", 'if earlier[0]["digest"] != digest:', "if False:"),
    "sweep: a cancelled attempt is abandoned": _shared("sweep", 'if row["cancelled"]:', "if False:"),
    "sweep: only the dead worker's": _shared("sweep", ' if row["worker"] == worker]', "]"),
    "sweep: only the dead worker's leases": _shared(
        "sweep", "and worker = %(worker)s and lease_until is not null", "and lease_until is not null"
    ),
    "sweep: lost messages wait for the relay": _shared(
        "sweep", "set published_at = null, publish_count = 0 where", "set publish_count = 0 where"
    ),
    "dead letters: the tenant's own": _shared("dead_letters", "where l.tenant_id = %(tenant)s and l.id", "where l.id"),
    "dead letters: not of a cancelled task": _shared(
        "dead_letters", 'if letter["task_state"] in ("cancelling", "cancelled"):', "if False:"
    ),
    "dead letters: tasks are locked": _shared(
        "dead_letters",
        'run(connection, "lock_tasks", ids=sorted(',
        "len(sorted(",
    ),
    "dead letters: skipped steps are revived": _shared(
        "dead_letters", '        run(connection, "revive", ids=tasks)\n', ""
    ),
    "questions: tasks are locked": _shared(
        "questions", '        run(connection, "lock_tasks", ids=[found[0]["task_id"]])\n', ""
    ),
    "questions: the tenant's own": _shared(
        "questions", "where q.id = %(id)s and q.tenant_id = %(tenant)s", "where q.id = %(id)s"
    ),
    "questions: only while open": _shared("questions", "if not rows:", "if False:"),
    "outbox: one relay at a time": _shared(
        "outbox", "            return RelayPass(acted=False)\n", "            pass\n"
    ),
    "outbox: what the broker did not take waits on": _shared(
        "outbox", "if not publish(publisher, wakeups):", "if publish(publisher, wakeups) is None:"
    ),
    "attempts: tasks are locked before they may end": _shared(
        "attempts", '        send(connection, "lock_tasks", ids=ending)\n', "        pass\n"
    ),
    "attempts: what needed a dead step is skipped": _shared(
        "attempts", '        send(connection, "skip", ids=doomed)\n', "        pass\n"
    ),
    "attempts: an optional dead step frees its dependents": _shared(
        "attempts", 'for row in rows.get(Bury, ()) if row["optional"]]', "for row in rows.get(Bury, ()) if False]"
    ),
    "attempts: a stranded task is settled": _shared(
        "attempts", "sorted({*ending, *woken.stranded} - grown)", "sorted({*ending} - grown)"
    ),
    **{
        f"forks: {name}": Check("shared_state.forks", text, replacement, FORKS)
        for name, text, replacement in (
            ("what is not accepted runs anew", "step.id == at.id or not step.accepted]", "step.id == at.id]"),
            ("the step itself runs anew", "step.id == at.id or not step.accepted]", "not step.accepted]"),
            ("and what needs it", "            waiting.extend(dependents.get(step_id, ()))\n", ""),
            ("a planner starts over alone", "[at] if at.role is Role.PLANNER else list(steps)", "list(steps)"),
            ("an edit fits its schema", "    if reasons:\n", "    if False:\n"),
            ("a key makes one fork", "if earlier is not None:", "if False:"),
        )
    },
    "collect: not what is referred to": Check(
        "shared_state.collect", "and r.sha256 = a.sha256)", "and r.sha256 <> a.sha256 and false)", COLLECT
    ),
    "collect: bytes before the rows are let go": Check(
        "shared_state.collect", "                    bodies.remove(outside)\n", "                    pass\n", COLLECT
    ),
    "put: what is there is looked at": Check(
        "shared_state.artifacts", "return bool(known) and bodies.has(", "return bool(known) or bodies.has(", COLLECT
    ),
    "prune: not what lives": _shared(
        "prune",
        "where t.finished_at < clock_timestamp()",
        "where coalesce(t.finished_at, '-infinity') < clock_timestamp()",
    ),
    "prune: not before its time": _shared(
        "prune",
        "where t.finished_at < clock_timestamp() - make_interval(secs => %(days)s * 86400.0)",
        "where t.finished_at is not null",
    ),
    "prune: not with an open dead letter": _shared(
        "prune", "and (l.closed_at is null\n                or", "and (false\n                or"
    ),
}
