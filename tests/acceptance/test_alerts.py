"""Rules and dashboard name metrics that exist, and the alerts fire where their conditions are true: on real processes,
by what they tell, and where Prometheus is installed by its own evaluation of the rules."""

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from orchestrator.embedded import EmbeddedPostgres, EmbeddedRedis
from orchestrator.embedded.folder import free_port
from shared_state import keys

from ..conftest import create_database
from ..scrape import Series, declared, scrape, value
from . import planning_team
from .house import LOOPS, House
from .prometheus import RULES, Prometheus, program

DASHBOARDS = sorted(Path("deploy/grafana/dashboards").glob("*.json"))
TOKEN = "a token of the tests"
WORKER = "w1"
_NAME = re.compile(r"\b(?:orchestrator|process)_[a-z0-9_]+\b")
_RULE = re.compile(r"- alert: (\w+)\n\s+expr: (?:>-\n)?(.*?)\n\s+(?:for|labels):", re.DOTALL)


class Scene:
    """A house with an API, loops and one worker of one slot, and whoever may be watching it."""

    def __init__(self, house: House, ports: dict[str, int], watcher: Prometheus | None) -> None:
        self.house = house
        self.watcher = watcher
        self._ports = ports

    def installation(self) -> Series:
        return scrape(f"{self.house.settings.api_url}/metrics", TOKEN)

    def process(self, name: str) -> Series:
        return scrape(f"http://127.0.0.1:{self._ports[name]}/metrics", TOKEN)

    def declared(self, name: str) -> set[str]:
        return declared(f"http://127.0.0.1:{self._ports[name]}/metrics", TOKEN)

    def all_names(self) -> set[str]:
        return {name for series in (self.installation(), *map(self.process, self._ports)) for name in series}

    def fires(self, alert: str, **labels: str) -> None:
        """Where Prometheus is watching."""
        if self.watcher is not None:
            watcher = self.watcher
            self.house.until(lambda: watcher.fires(alert, **labels), f"{alert} fires", 30)


@pytest.fixture(scope="module")
def scene(
    postgres: EmbeddedPostgres,
    template_database: str,
    redis_server: EmbeddedRedis,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Scene]:
    create_database(postgres, "alerts", template_database)
    url, port = postgres.url_of("alerts"), free_port()
    own = {"metrics_token": TOKEN, "listen_port": port, "api_url": f"http://127.0.0.1:{port}"}
    ports = {name: free_port() for name in ("api", LOOPS, WORKER)}
    told = {name: f"127.0.0.1:{number}" for name, number in ports.items()}
    with (
        House(
            tmp_path_factory.mktemp("house"), url, redis_server.url, **own, worker_slots=1, verify_seconds=0.5
        ) as house,
        ExitStack() as stack,
    ):
        house.start_loops(metrics_listen=told[LOOPS])
        house.start_api(metrics_listen=told["api"])
        house.start_workers(WORKER, metrics_listen=told[WORKER])
        watcher = None
        if shutil.which("prometheus"):
            watched = {"orchestrator": [f"127.0.0.1:{port}"], "orchestrator-process": list(told.values())}
            watcher = stack.enter_context(Prometheus(tmp_path_factory.mktemp("prometheus"), watched, TOKEN))
            house.until(watcher.ready, "Prometheus has seen every process", 30)
        house.apply(planning_team.team())
        work(house)
        yield Scene(house, ports, watcher)


def work(house: House) -> None:
    """Something of everything: a plan, a review, a retry, a dead letter, requests; at the end the one slot is busy."""
    key = keys.create(house.engine, "default", "caller", "admin")
    with httpx.Client(base_url=house.settings.api_url, headers={"Authorization": f"Bearer {key}"}) as caller:

        def submit(**task: Any) -> UUID:
            return UUID(caller.post("/v1/tasks", json=task).json()["id"])

        def step(agent: str, **given: Any) -> UUID:
            return submit(team="diagnostics", plan={"steps": [{"id": "s", "agent": agent, "input": given}]})

        house.wait(submit(team="planning", input={"value": 1, "reject_times": 1}))
        house.wait(step("fail", times=1))
        house.wait(step("unable"), state="failed")
        step("sleep", seconds=3600)


def rules() -> dict[str, str]:
    found = {name: " ".join(text.split()) for name, text in _RULE.findall(RULES.read_text())}
    assert len(found) == RULES.read_text().count("- alert:")
    return found


def panels() -> dict[str, str]:
    """Every expression, by its panel's title and its place there."""
    found = {}
    for file in DASHBOARDS:
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel.get("targets", ()):
                found[f"{panel['title']}/{target['refId']}"] = target["expr"]
    return found


def names_in(expressions: Iterable[str]) -> set[str]:
    return {name for expression in expressions for name in _NAME.findall(expression)}


def test_a_dead_letter_raises_an_alert(scene: Scene) -> None:
    scene.house.until(lambda: _letters(scene) == 1, "the dead letter shows")
    age = value(scene.installation(), "orchestrator_dead_letters_newest_seconds", reason="agent.unable")
    assert age is not None
    assert age < 300
    scene.fires("DeadLetters", reason="agent.unable")


def _letters(scene: Scene) -> float | None:
    return value(scene.installation(), "orchestrator_dead_letters_open", reason="agent.unable")


# --- what they name


def test_every_metric_of_rules_and_dashboards_is_in_a_scrape(scene: Scene) -> None:
    scene.house.until(lambda: "orchestrator_invariant_violations" in scene.process(LOOPS), "the inspector looked")
    named = names_in([*rules().values(), *panels().values()])
    assert len(named) > 30
    of_models = {name for name in named if name.startswith("orchestrator_model_")}
    assert named - of_models - scene.all_names() == set()
    # Nobody calls a model here, so that these have no series; the worker has them all the same.
    assert {re.sub(r"_(total|bucket)$", "", name) for name in of_models} <= scene.declared(WORKER)


def test_every_label_of_rules_and_dashboards_is_one_that_a_metric_has(scene: Scene) -> None:
    samples = [scene.installation(), scene.process("api"), scene.process(LOOPS), scene.process(WORKER)]
    known = {"instance", "job", "model", "ending", "direction"}
    for series in samples:
        known |= {label for found in series.values() for labels, _ in found for label in labels}
    for expression in (*rules().values(), *panels().values()):
        grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", expression)
        matched = re.findall(r"[{,]\s*(\w+)\s*(?:=|!=|=~|!~)", expression)
        assert {label.strip() for group in grouped for label in group.split(",")} | set(matched) <= known, expression


def test_every_panel_is_answered_by_prometheus(scene: Scene) -> None:
    if scene.watcher is None:
        pytest.skip("prometheus is not installed (Debian, Ubuntu: apt install prometheus)")
    watcher = scene.watcher
    silent = []
    for title, expression in panels().items():
        plain = expression.replace("$__rate_interval", "30s")
        if not watcher.query(plain) and "violations" not in plain and "_model_" not in plain:
            silent.append(title)
    assert silent == []


def test_no_series_names_a_task_or_a_step(scene: Scene) -> None:
    for name in ("api", LOOPS, WORKER):
        for found in scene.process(name).values():
            assert not [labels for labels, _ in found for text in labels.values() if re.search(r"[0-9a-f]{8}-", text)]


def test_every_alert_leads_to_its_entry_in_the_runbook() -> None:
    runbook = Path("docs/operations.md").read_text()
    anchors = {re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-")
               for line in re.findall(r"^#+ (.+)$", runbook, re.MULTILINE)}  # fmt: skip
    links = re.findall(r"runbook: docs/operations\.md#(\S+)", RULES.read_text())
    assert links == [f"alert-{name.lower()}" for name in rules()]
    assert set(links) <= anchors


# --- checked by Prometheus's own tool


def promtool(*arguments: str) -> str:
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_rules_and_configuration_are_valid() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", str(RULES))
    promtool("check", "config", "--syntax-only", "deploy/prometheus/prometheus.yml")


def test_every_rule_fires_when_and_only_when_its_condition_holds(tmp_path: Path) -> None:
    tested = Path("deploy/prometheus/alerts_test.yml")
    assert set(re.findall(r'alertname="(\w+)"', tested.read_text())) == set(rules())
    promtool("test", "rules", str(tested))
    (tmp_path / tested.name).write_text(tested.read_text())
    for rule, blunted in (("> 15", "> 15000"), ('{loop!="sweeper"}) > 30', '{loop!="sweeper"}) >= 0')):
        (tmp_path / RULES.name).write_text(RULES.read_text().replace(rule, blunted, 1))
        with pytest.raises(AssertionError, match="FAILED"):
            promtool("test", "rules", str(tmp_path / tested.name))


# --- made true, one after the other; the later ones break what the earlier ones need


def test_a_growing_queue_and_old_work_without_a_free_slot_raise_alerts(scene: Scene) -> None:
    house = scene.house
    house.until(lambda: value(scene.process(WORKER), "orchestrator_worker_slots_busy") == 1, "the slot is busy")

    def depth() -> float:
        return value(scene.installation(), "orchestrator_queue_depth", queue="execute") or 0

    def grow() -> bool:
        house.submit([{"id": f"s{number}", "agent": "echo", "input": {}} for number in range(60)])
        return depth() > 100 and (scene.watcher is None or scene.watcher.fires("QueueGrows", queue="execute"))

    house.until(grow, "the queue grows, and somebody says so", 40)
    house.query("update outbox set created_at = created_at - interval '10 minutes' returning step_id")
    house.until(lambda: _free(scene) == 0, "the worker has said that it is busy")
    house.until(
        lambda: (value(scene.installation(), "orchestrator_queue_oldest_seconds", queue="execute") or 0) > 300, "old"
    )
    scene.fires("WorkWaits", queue="execute")


def _free(scene: Scene) -> float | None:
    return value(scene.installation(), "orchestrator_queue_slots_free", queue="execute")


def test_a_silent_sweeper_a_stuck_lease_and_a_lost_worker_raise_alerts(scene: Scene) -> None:
    house = scene.house
    before = value(scene.process(LOOPS), "orchestrator_loop_last_pass_timestamp_seconds", loop="sweeper") or 0
    house.until(lambda: _last_pass(scene) > before, "the sweeper does its rounds")
    house.signal(LOOPS, signal.SIGSTOP)
    try:
        house.kill(WORKER)
        house.query("update steps set lease_until = lease_until - interval '1 minute' where lease_until is not null")
        house.query("update workers set seen_at = seen_at - interval '20 seconds'")
        overdue = "orchestrator_loop_overdue_seconds"
        house.until(lambda: (value(scene.installation(), overdue, loop="sweeper") or 0) > 15, "the lease is stuck")
        house.until(lambda: value(scene.installation(), "orchestrator_workers", state="silent") == 1, "it is silent")
        assert value(scene.installation(), "orchestrator_queue_workers", queue="execute") == 0
        scene.fires("StuckLease")
        scene.fires("LoopSilent", loop="sweeper")
        scene.fires("WorkerSilent")
        scene.fires("NoWorkers", queue="execute")
        scene.fires("TargetDown", job="orchestrator-process")
    finally:
        house.signal(LOOPS, signal.SIGCONT)
    house.until(lambda: value(scene.installation(), overdue, loop="sweeper") == 0, "it is mended")
    house.until(lambda: (value(scene.process(LOOPS), "orchestrator_leases_recovered_total") or 0) >= 1, "and counted")


def _last_pass(scene: Scene) -> Any:
    return value(scene.process(LOOPS), "orchestrator_loop_last_pass_timestamp_seconds", loop="sweeper") or 0


def test_a_broken_invariant_raises_an_alert(scene: Scene) -> None:
    """Made by hand, and mended again: nothing of ours breaks one."""
    house = scene.house
    (task,) = house.query("select id from tasks where finished_at is null order by id limit 1")
    house.query("update tasks set step_count = step_count + 1 where id = %(id)s", id=task["id"])
    house.until(lambda: _violated(scene) == 1, "the inspector finds it")
    scene.fires("InvariantViolated", invariant="I21")
    house.query("update tasks set step_count = step_count - 1 where id = %(id)s", id=task["id"])
    house.until(lambda: _violated(scene) == 0, "and that it is mended")


def _violated(scene: Scene) -> float | None:
    return value(scene.process(LOOPS), "orchestrator_invariant_violations", invariant="I21")
