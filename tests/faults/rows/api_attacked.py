"""F09, F22, F32: the API dies between COMMIT and reply, is sent far too much, or has far too few connections."""

import itertools
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import httpx
import psutil

from contracts.plans import Plan
from orchestrator.embedded.folder import free_port
from shared_state import keys, teams
from shared_state.crash_points import CRASH_AT, CRASH_PERMITTED
from shared_state.tasks import Submission
from tests.faults.result import percentile
from tests.faults.row import Row
from tests.faults.scene import Scene
from tests.faults.staff import Member
from tests.faults.wild import wild_teams

CLIENTS, PASSAGES = 25, 30
"""So many clients at once; the API dies at every so many submissions, over all that are on their way. Those that were
written together come to that point together: with fewer than there are clients hardly anybody would be answered."""
MANY_CLIENTS = 200
ERROR_SECONDS, ANSWER_SECONDS = 2.0, 20.0
MEGABYTES, GROWTH_MEGABYTES = 64, 50


def die_before_the_reply(scene: Scene) -> None:
    """Every client sends its key again until it has an answer."""
    url = _hire_api(scene, {CRASH_AT: f"C02:{PASSAGES}", CRASH_PERMITTED: "tests"})
    key = keys.create(scene.engine, "default", "clients", "operator")
    numbers = itertools.count()

    def submit(client: httpx.Client) -> tuple[UUID, int] | None:
        """The task, and how often a request for it got no answer that had got a connection."""
        unanswered = 0
        headers = {"Idempotency-Key": f"f09-{next(numbers)}", "Authorization": f"Bearer {key}"}
        plan = {"steps": [{"id": "a", "agent": "work", "input": scene.load.given(nap_seconds=0.0)}]}
        body = {"team": "faults", "plan": plan, "labels": {"f09": "1"}}
        for _ in range(1000):
            try:
                answer = client.post(url, json=body, headers=headers)
                return UUID(answer.json()["id"]), unanswered
            except httpx.ConnectError:
                time.sleep(0.1)
            except (httpx.TransportError, ValueError, KeyError):
                unanswered += 1
        return None

    def submit_on(_number: int) -> list[tuple[UUID, int] | None]:
        made = []
        with httpx.Client(timeout=10, trust_env=False) as client:
            while not scene.over():
                made.append(submit(client))
        return made

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = [each for made in pool.map(submit_on, range(CLIENTS)) for each in made]
    known = [each for each in answers if each is not None]
    scene.injected("API deaths between COMMIT and reply", scene.staff.members["armed"].life - 1)
    scene.injected("submissions sent again", sum(unanswered for _, unanswered in known))
    scene.staff.dismiss(scene.staff.members["armed"])
    scene.staff.kill(scene.staff.members["armed"])
    made = {row["id"] for row in scene.query("select id from tasks where labels ->> 'f09' = '1'")}
    scene.expect(len(known) == len(answers), f"{len(answers) - len(known)} submissions never got an answer")
    scene.expect(made == {task for task, _ in known}, f"{len(made)} tasks of {len(known)} submissions")
    open_tasks = "select id from tasks where labels ->> 'f09' = '1' and finished_at is null"
    scene.until(lambda: not scene.query(open_tasks), "all of them end", 60)


def exhaust_connections(scene: Scene) -> None:
    """Two hundred clients, and a database that takes its time for every word."""
    scene.proxies["postgres"].delay_seconds = 0.05
    url = _hire_api(scene, {})
    key = keys.create(scene.engine, "default", "clients", "operator")
    seconds: dict[str, list[float]] = {"good": [], "refused": []}
    statuses: Counter[int | str] = Counter()

    def ask_on(_number: int) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(timeout=3 * ANSWER_SECONDS, trust_env=False) as client:
            while not scene.over():
                began = time.monotonic()
                try:
                    status: int | str = client.get(url, params={"limit": 1}, headers=headers).status_code
                except httpx.TransportError as error:
                    status = type(error).__name__
                statuses[status] += 1
                seconds["good" if status == 200 else "refused"].append(time.monotonic() - began)

    with ThreadPoolExecutor(MANY_CLIENTS) as pool:
        list(pool.map(ask_on, range(MANY_CLIENTS)))
    scene.proxies["postgres"].delay_seconds = 0.0
    scene.injected("requests by 200 clients", statuses.total())
    scene.facts["answers"] = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
    for what, target in (("good", ANSWER_SECONDS), ("refused", ERROR_SECONDS)):
        p99 = percentile(seconds[what], 0.99)
        scene.facts[f"{what} answers p99"] = "none" if p99 is None else f"{p99:.1f} s"
        scene.expect(
            p99 is None or p99 <= target, f"{what} answers take {p99 or 0:.1f} s (p99), more than {target:g} s"
        )
    strange = {status: count for status, count in statuses.items() if status not in (200, 429, 503)}
    scene.expect(not strange, f"answered otherwise than 200, 429 or 503: {strange}")


def send_too_much(scene: Scene) -> None:
    """64 MB as a request's body, as a message, and as a step's result; nobody's memory grows by that."""
    url = _hire_api(scene, {})
    key = keys.create(scene.engine, "default", "clients", "operator")
    members = [*scene.staff.workers(), scene.staff.members["armed"]]
    before = {member.slot: _megabytes(member) for member in members}
    teams.apply(scene.engine, "default", wild_teams()[0])
    size = MEGABYTES * 1_000_000
    plan = Plan.model_validate({"steps": [{"id": "big", "agent": "big", "input": {"bytes": size}}]})
    large = b"x" * size
    most = dict.fromkeys(before, 0.0)
    with scene.servers.client() as client, httpx.Client(timeout=60, trust_env=False) as sender:
        while not scene.over():
            status = _post(sender, url, large, key)
            scene.expect(status == 413, f"a body of {MEGABYTES} MB is answered {status}")
            client.lpush("execute", large)
            scene.injected(f"times {MEGABYTES} MB as a body, a message and a result")
            task = scene.door.submit(Submission(team="cycle", plan=plan))
            _await_quarantined(scene, sum(scene.counts.values()))
            _await_refused(scene, task)
            for member in members:
                most[member.slot] = max(most[member.slot], _megabytes(member) - before[member.slot])
    scene.facts["growth"] = ", ".join(f"{slot} {grown:.0f} MB" for slot, grown in most.items())
    api = most.pop("armed")
    scene.expect(api < GROWTH_MEGABYTES, f"the API's memory grew by {api:.0f} MB")
    worker = max(most.values())
    scene.expect(worker < MEGABYTES * 3, f"a worker's memory grew by {worker:.0f} MB")


def _await_refused(scene: Scene, task: UUID) -> None:
    sql = "select id from tasks where id = %(id)s and state = 'failed'"
    scene.until(lambda: scene.query(sql, id=task), "the large result is refused", 60)


def _await_quarantined(scene: Scene, count: int) -> None:
    sql = "select count(*) as n from dead_letters where reason = 'message.too_large'"
    scene.until(lambda: scene.query(sql)[0]["n"] >= count, "the large message is a dead letter", 30)


def _post(client: httpx.Client, url: str, body: bytes, key: str) -> int | str:
    """The status; some servers close before all is sent, which is a refusal too."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        return client.post(url, content=body, headers=headers).status_code
    except httpx.TransportError as error:
        return type(error).__name__


def _megabytes(member: Member) -> float:
    return 0.0 if member.pid is None else psutil.Process(member.pid).memory_info().rss / 1_000_000


def _hire_api(scene: Scene, environment: dict[str, str]) -> str:
    """An API of the row's own, started from nothing so that its environment counts; the URL of its tasks."""
    port = free_port()
    settings = scene.settings.model_copy(update={"listen_port": port})
    scene.staff.hire(
        Member("armed", ("orchestrator", "api"), settings, through_exec=True, environment=environment, spared=True)
    )
    base = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{base}/health", trust_env=False).is_success
        except httpx.TransportError:
            return False

    scene.until(answers, "the API answers", 30)
    return f"{base}/v1/tasks"


ROWS = (
    Row(
        "F09",
        "the API dies between COMMIT and reply; 25 clients send their keys again",
        "one task for each key",
        die_before_the_reply,
        seconds=60,
        shortest=12,
        workers=2,
        rate=1,
    ),
    Row(
        "F22",
        "64 MB as a body, as a message and as a result",
        "413 and dead letters; the API does not grow, a worker by no more than one of them at a time",
        send_too_much,
        seconds=12,
        workers=2,
        rate=1,
    ),
    Row(
        "F32",
        "200 clients of an API with 12 connections to a slow database",
        "200, 429 or 503 for all of them, and nobody waits for ever",
        exhaust_connections,
        seconds=20,
        workers=2,
        rate=1,
        proxied=frozenset({"postgres"}),
    ),
)
