"""F23, F24, F25: steps that kill their worker, never end, or take all memory."""

from contracts.plans import Plan
from tests.faults.load import chain
from tests.faults.row import Row
from tests.faults.scene import Scene

THROUGHPUT_SHARE = 0.8
LIMIT_SECONDS = 2.0
"""The timeout of the agent `hang`."""
PATIENCE_SECONDS = 5.0


def kill_process(scene: Scene) -> None:
    """A step in a thread kills the whole worker; at three attempts it is dead."""
    began, before = scene.left_seconds(), len(scene.load.accepted())
    while not scene.over():
        _put_poison(scene, "die", "steps that kill their worker")
        scene.pause(2.5)
    others = len(scene.load.accepted()) - before - scene.counts["steps that kill their worker"]
    share = others / (began * scene.load.rate)
    scene.facts["others' throughput"] = f"{share:.0%}"
    scene.expect(share >= THROUGHPUT_SHARE, f"the others' throughput is {share:.0%} of what it should be")
    _judge_letters(scene, "die", attempts=3)


def hang(scene: Scene) -> None:
    while not scene.over():
        _put_poison(scene, "hang", "steps that hang")
        scene.pause(1.5)
    _judge_letters(scene, "hang", attempts=2)
    longest = max(scene.ledger.body_seconds("poison"), default=0.0)
    scene.facts["longest life of a hung body"] = f"{longest:.1f} s"
    limit = LIMIT_SECONDS + PATIENCE_SECONDS
    scene.expect(longest <= limit, f"a body that hung lived {longest:.1f} s, more than {limit:g} s")


def hoard(scene: Scene) -> None:
    starts = scene.staff.starts
    while not scene.over():
        _put_poison(scene, "hoard", "steps that take all memory")
        scene.pause(1.5)
    _judge_letters(scene, "hoard", attempts=2)
    scene.expect(scene.staff.starts == starts, "a worker died of a step's hunger for memory")


def _put_poison(scene: Scene, agent: str, what: str) -> None:
    def poison(given: dict[str, object]) -> Plan:
        return Plan.model_validate({"steps": [{"id": "poison", "agent": agent, "input": given}]})

    scene.load.put(poison, wanted_state="failed")
    scene.injected(what)


def _judge_letters(scene: Scene, agent: str, *, attempts: int) -> None:
    """Every poison step is dead after its attempts, with one dead letter."""
    scene.heal()
    scene.come_to_rest()
    rows = scene.query(
        """select s.state, s.attempt_count, (select count(*) from dead_letters l where l.step_id = s.id) as letters
        from steps s where s.agent = %(agent)s""",
        agent=agent,
    )
    wrong = [row for row in rows if (row["state"], row["attempt_count"], row["letters"]) != ("dead", attempts, 1)]
    scene.expect(bool(rows) and not wrong, f"{len(wrong)} of {len(rows)} are not dead after {attempts} attempts")


ROWS = (
    Row(
        "F23",
        "steps that kill -9 their worker",
        "dead after 3 attempts; the others keep 80 % of their throughput",
        kill_process,
        seconds=30,
        shortest=12,
        shapes=(chain,),
        rate=4,
    ),
    Row(
        "F24",
        "steps that hang, deaf to SIGTERM",
        "killed within their limit + 5 s, dead after 2 attempts",
        hang,
        seconds=20,
        rate=3,
    ),
    Row(
        "F25",
        "steps that take all memory",
        "dead after 2 attempts; no worker dies",
        hoard,
        seconds=20,
        rate=3,
    ),
)
