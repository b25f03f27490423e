"""`orchestrator dev`: starts everything, mends what dies, scales, and leaves nothing behind."""

import json
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.dev.counts import ask_for
from orchestrator.embedded import EmbeddedPostgres

from ..conftest import create_database
from ..scrape import scrape
from .dev_process import Dev, running, until

TEAM = """
name = "tiny"
[agents.shout]
call = "tiny_agents:shout"
"""
AGENT = """
def shout(ctx, input: dict) -> dict:
    return {"text": input["text"].upper() + "%s"}
"""


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    folder = tmp_path_factory.mktemp("dev")
    teams = folder / "teams" / "tiny"
    teams.mkdir(parents=True)
    (teams / "team.toml").write_text(TEAM)
    (teams / "tiny_agents.py").write_text(AGENT % "!")
    with Dev(folder / "data", "--port", "0", "--teams", str(folder / "teams")) as started:
        yield started


def echo(dev: Dev, text: str) -> str:
    with dev.client() as client:
        plan = {"steps": [{"id": "a", "agent": "echo", "input": {"text": text}}]}
        task = client.wait(client.submit("diagnostics", plan=plan)["id"], 60)
        assert task["state"] == "succeeded", task
        return str(client.result(task["id"])["outputs"]["a"]["text"])


def shout(dev: Dev, text: str) -> str:
    with dev.client() as client:
        task = client.wait(client.submit("tiny", input={"text": text})["id"], 60)
        assert task["state"] == "succeeded", task
        return str(next(iter(client.result(task["id"])["outputs"].values()))["text"])


def test_the_record_names_every_part_and_is_private(dev: Dev) -> None:
    record = dev.record()
    names = {part["name"] for part in record["parts"]}
    assert names == {"postgres", "redis", "api", "loops", "worker-1", "worker-2", "flower"}
    assert running({part["pid"] for part in record["parts"]}) == {part["pid"] for part in record["parts"]}
    assert stat.S_IMODE((dev.data_dir / "dev.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(dev.data_dir.stat().st_mode) == 0o700


def test_no_secret_is_on_a_command_line(dev: Dev) -> None:
    shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    record = dev.record()
    secrets = [record["key"], record["flower"]["password"], *record["settings"]["signing_keys"].values()]
    urls = (record["settings"]["database_url"], record["settings"]["broker_url"])
    secrets += [url.rpartition("@")[0].rpartition(":")[2] for url in urls]
    assert all(len(secret) > 15 for secret in secrets)
    assert [secret for secret in secrets if secret in shown] == []


def test_flower_wants_its_password(dev: Dev) -> None:
    url = dev.record()["flower"]["url"]
    until(lambda: _status(url) == 401, 30)


def test_every_process_tells_of_itself_to_who_has_the_token(dev: Dev) -> None:
    record = dev.record()
    token = record["metrics"]["token"]
    told = {part["name"]: part["metrics"] for part in record["parts"] if part["metrics"]}
    assert set(told) == {"api", "loops", "worker-1", "worker-2"}
    for url in (record["metrics"]["url"], *told.values()):
        assert "orchestrator_" in "".join(scrape(url, token))
        assert _status(url) == 401
    targets = json.loads(Path(record["metrics"]["targets"]).read_text())
    assert {f"http://{each['targets'][0]}/metrics": each["labels"]["process"] for each in targets} == {
        url: name for name, url in told.items()
    }


def _status(url: str) -> int:
    shown = subprocess.run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", url], capture_output=True, text=True)
    return int(shown.stdout or 0)


def test_a_second_server_on_the_same_directory_is_refused(dev: Dev) -> None:
    second = Dev(dev.data_dir, "--port", "0", output="second.out")
    second.launch()
    assert second.process.wait(30) == 1
    assert f"in use by another dev server (process {dev.process.pid})" in second.output()
    assert echo(dev, "still here") == "still here"


def test_the_users_team_is_applied_and_again_after_a_change(dev: Dev) -> None:
    assert shout(dev, "hey") == "HEY!"
    teams = dev.data_dir.parent / "teams" / "tiny"
    (teams / "tiny_agents.py").write_text(AGENT % "?")
    (teams / "team.toml").write_text("description = 3\n" + TEAM)
    until(lambda: "teams not applied" in dev.output())
    assert "description" in dev.output()
    (teams / "team.toml").write_text('description = "mended"\n' + TEAM)
    until(lambda: dev.output().count("team tiny is applied") >= 2)
    until(lambda: shout(dev, "hey") == "HEY?")


def test_without_a_model_only_what_needs_one_fails_and_says_what_to_set(dev: Dev) -> None:
    assert "none is set: team assistant needs model" in dev.output()
    with dev.client() as client:
        task = client.wait(client.submit("assistant", goal="anything")["id"], 60)
        error = task["error"]
        assert error is not None
        assert (task["state"], error["code"]) == ("failed", "model.not_configured")
        assert "set ORCHESTRATOR_MODEL" in error["text"]
        assert len(list(client.dead_letters(task=task["id"]))) == 1
    assert echo(dev, "fine") == "fine"


def test_a_killed_workers_step_goes_on_long_before_its_lease_ends(dev: Dev) -> None:
    with dev.client() as client:
        plan = {"steps": [{"id": "a", "agent": "sleep", "input": {"seconds": 2}}]}
        task = client.submit("diagnostics", plan=plan)["id"]
        until(lambda: [step["state"] for step in client.steps(task)] == ["running"])
        step = next(client.steps(task))
        name = next(part["name"] for part in dev.record()["parts"] if part["worker"] == step["worker"])
        killed_at = time.monotonic()
        dev.kill(name)
        assert client.wait(task, 60)["state"] == "succeeded"
        assert time.monotonic() - killed_at < 20, "a lease lasts 30 seconds"
        attempts = client.step(step["id"])["attempts"]
        assert [attempt["state"] for attempt in attempts] == ["expired", "succeeded"]
        assert attempts[0]["error"]["code"] == "worker.died"
        assert dev.part(name)["worker"] not in (None, step["worker"]), "each life has a name of its own"


def test_every_part_is_started_again(dev: Dev) -> None:
    for name in ("postgres", "redis", "loops", "api"):
        dev.kill(name)
    until(lambda: _answers(dev), 60)
    assert echo(dev, "again") == "again"


def _answers(dev: Dev) -> bool:
    with dev.client() as client:
        try:
            return bool(client.ready())
        except Exception:
            return False


def test_workers_are_scaled_and_drained(dev: Dev) -> None:
    ask_for(dev.data_dir, "executor", 1)
    until(lambda: "executor-1" in {part["name"] for part in dev.record()["parts"]})
    pid = dev.part("executor-1")["pid"]
    with dev.client() as client:
        worker = dev.part("executor-1")["worker"]
        until(lambda: worker in {found["name"] for found in client.workers() if found["state"] == "running"})
        client.drain(worker)
        until(lambda: not running({pid}), 40)
        until(lambda: "executor-1 has drained and stays away" in dev.output())
        until(lambda: dev.part("executor-1") == {})
        ask_for(dev.data_dir, "executor", 1)
        until(lambda: bool(dev.part("executor-1").get("pid")))
        pid, again = dev.part("executor-1")["pid"], dev.part("executor-1")["worker"]
        assert again != worker
        until(lambda: again in {found["name"] for found in client.workers() if found["state"] == "running"})
    ask_for(dev.data_dir, "executor", 0)
    until(lambda: not running({pid}), 40)
    assert dev.part("executor-1") == {}


def test_a_stop_leaves_nothing_behind_and_a_restart_keeps_the_tasks(dev: Dev) -> None:
    with dev.client() as client:
        plan = {"steps": [{"id": f"s{n}", "agent": "sleep", "input": {"seconds": 1}} for n in range(8)]}
        task = client.submit("diagnostics", plan=plan)["id"]
        until(lambda: any(step["state"] == "running" for step in client.steps(task)))
    family = dev.descendants()
    key = dev.record()["key"]
    assert len(family) > 8, "servers, parts and the agents' own processes"
    assert dev.stop() == 0
    until(lambda: not running(family), 5)
    assert not (dev.data_dir / "dev.json").exists()
    dev.start()
    assert dev.record()["key"] == key
    with dev.client() as client:
        assert client.wait(task, 60)["state"] == "succeeded"


def test_a_killed_supervisor_leaves_nothing_for_long_and_starts_again(dev: Dev) -> None:
    family = dev.descendants()
    dev.process.kill()
    dev.process.wait(10)
    until(lambda: not running(family), 20)
    dev.start()
    assert echo(dev, "back") == "back"
    assert dev.stop(signal.SIGINT) == 0


def test_servers_given_by_url_are_used_and_left_alone(
    tmp_path: Path, postgres: EmbeddedPostgres, redis_url: str
) -> None:
    create_database(postgres, "given_to_dev")
    urls = {"database_url": postgres.url_of("given_to_dev"), "broker_url": redis_url}
    with Dev(tmp_path / "data", "--port", "0", "--no-flower", **urls) as dev:
        assert {part["name"] for part in dev.record()["parts"]} == {"api", "loops", "worker-1", "worker-2"}
        assert echo(dev, "given") == "given"
    assert postgres.alive()


def test_without_its_broker_the_api_still_accepts_tasks(tmp_path: Path) -> None:
    dev = Dev(tmp_path / "data", "--port", "0", "--no-flower", broker_url="redis://127.0.0.1:1/0")
    with dev, dev.client() as client:
        task = client.submit("diagnostics", plan={"steps": [{"id": "a", "agent": "echo", "input": {}}]})
        assert client.task(task["id"])["state"] == "running"


def test_a_database_that_is_away_is_said_without_its_password(tmp_path: Path) -> None:
    dev = Dev(tmp_path / "data", "--port", "0", database_url="postgresql://me:hidden-password@127.0.0.1:1/x")
    dev.launch()
    assert dev.process.wait(60) == 3
    assert "postgresql://me:***@127.0.0.1:1/x" in dev.output()
    assert "hidden-password" not in dev.output()
    assert "Traceback" not in dev.output()


def test_a_taken_port_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        dev = Dev(tmp_path / "data", "--port", str(port))
        dev.launch()
        assert dev.process.wait(30) == 1
    assert f"cannot listen on 127.0.0.1:{port}" in dev.output()
    assert "Traceback" not in dev.output()
    assert not (tmp_path / "data" / "postgres").exists()


def test_an_unusable_directory_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for data_dir in (tmp_path / "file" / "data", tmp_path / "file"):
        command = [sys.executable, "-m", "orchestrator", "dev", "--data-dir", str(data_dir)]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        assert process.returncode == 1
        assert "the data directory cannot be used" in process.stderr
        assert f"{tmp_path / 'file'} is not a directory; move it away, or choose another --data-dir" in process.stderr
        assert "Traceback" not in process.stderr


def test_a_wrong_port_is_said_as_it_was_typed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "orchestrator", "dev", "--data-dir", str(tmp_path / "d"), "--port", "99999"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert "the flag --port" in process.stderr
    assert not (tmp_path / "d").exists()
