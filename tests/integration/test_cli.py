"""The command line as a program, against a real API: what it prints, and how it exits."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine

from contracts.errors import Failure
from contracts.settlements import Ask, Bury
from contracts.teams import Agent, Team
from orchestrator.cli import main
from shared_state.artifacts import ArtifactStore
from shared_state.engine import transaction
from shared_state.teams import head_digest, load_team, queues_of_teams

from .api_server import LiveApi, apply_team, claim, finish, settle

PLAN = {"steps": [{"id": "a", "agent": "write"}]}
Run = Callable[..., "Ended"]


@dataclass(frozen=True)
class Ended:
    stdout: str
    stderr: str


@pytest.fixture
def environment(api: LiveApi, database_url: str, redis_url: str, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "plan.json").write_text(json.dumps(PLAN))
    return {
        "ORCHESTRATOR_API_URL": api.url,
        "ORCHESTRATOR_API_KEY": api.key_of["admin"],
        "ORCHESTRATOR_DATABASE_URL": database_url,
        "ORCHESTRATOR_BROKER_URL": redis_url,
        "ORCHESTRATOR_SIGNING_KEYS": "test:a secret for tests only",
    }


@pytest.fixture
def run(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Run:
    """Run one command in an empty folder and check its exit code; in this process, which is fast."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("ORCHESTRATOR_") or name.endswith("_API_KEY"):
            monkeypatch.delenv(name)

    def command(*words: str, code: int = 0, **changed: str) -> Ended:
        with monkeypatch.context() as patch:
            for name, value in {**environment, **changed}.items():
                patch.setenv(name, value)
            exit_code = main(words)
        said = capsys.readouterr()
        assert exit_code == code, (words, said)
        assert "Traceback" not in said.err
        return Ended(said.out, said.err)

    return command


@pytest.fixture
def program(environment: dict[str, str], tmp_path: Path) -> Run:
    """Run one command as a program of its own."""

    def command(*words: str, code: int = 0, **changed: str) -> Ended:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR_")}
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", *words],
            cwd=tmp_path,
            env={**kept, **environment, **changed},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, (words, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return Ended(done.stdout, done.stderr)

    return command


def test_a_task_from_submit_to_its_files(api: LiveApi, run: Run, tmp_path: Path) -> None:
    task = run("submit", "letters", "--plan", "@plan.json", "--label", "x=1", "--goal", "Go.").stdout.strip()
    assert task in run("tasks").stdout
    assert [found["id"] for found in json.loads(run("tasks", "--json", "--label", "x=1").stdout)] == [task]
    assert "running" in run("status", task).stdout
    assert "no result yet" in run("result", task, code=1).stderr
    ref = ArtifactStore(api.engine, "default", None).put(b"# Report\n", "text/markdown")
    step = finish(api.engine, task, "a", {"files": {"../report.md": ref.model_dump()}, "n": 1})
    assert run("watch", task).stdout.splitlines()[-1] == "task succeeded"
    assert json.loads(run("result", task).stdout)["outputs"]["a"]["n"] == 1
    written = run("result", task, "--output", "out").stdout.split()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["_report.md", "result.json"]
    assert (tmp_path / "out" / "_report.md").read_bytes() == b"# Report\n"
    assert len(written) == 2
    assert "step.succeeded" in run("events", task).stdout
    assert "succeeded" in run("steps", task).stdout
    assert "attempt 1" in run("step", str(step)).stdout
    assert json.loads(run("step", str(step), "--json").stdout)["key"] == "a"
    assert "already succeeded" in run("cancel", task, code=1).stderr


def test_input_is_read_from_pairs_and_files(api: LiveApi, run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text('{"a": 1, "b": 2}')
    words = ("--input", "@in.json", "--input", "b=[3]", "--input", "path=.", "--json")
    made = json.loads(run("submit", "letters", *words).stdout)
    assert json.loads(run("status", made["id"], "--json").stdout)["input"] == {"a": 1, "b": [3], "path": "."}
    assert "neither" in run("submit", "letters", "--input", "b", code=2).stderr
    assert "cannot read" in run("submit", "letters", "--input", "@none.json", code=2).stderr
    (tmp_path / "bad.json").write_text("{")
    assert "valid JSON" in run("submit", "letters", "--plan", "@bad.json", code=2).stderr


def test_a_file_of_tasks_is_submitted_line_by_line(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["{}", "", '{"goal": "two"}', "[]", "{", '{"colour": "red"}', '{"team": "nobody"}']
    (tmp_path / "tasks.jsonl").write_text("\n".join(lines))
    done = run("submit", "letters", "--file", "tasks.jsonl", "--idempotency-key", "night", code=1)
    ids = done.stdout.split()
    assert len(set(ids)) == 2
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == [
        "line 4", "line 5", "line 6", "line 7", "2 submitted, 4 refused",
    ]  # fmt: skip
    assert "line 6: colour: " in done.stderr
    again = run("submit", "letters", "--file", "tasks.jsonl", "--idempotency-key", "night", "--json", code=1)
    rows = [json.loads(line) for line in again.stdout.splitlines()]
    assert [(row["id"], row["replayed"]) for row in rows if "id" in row] == [(each, True) for each in ids]
    assert [(row["line"], row["error"]["field"]) for row in rows if "error" in row] == [
        (4, ""), (5, ""), (6, "colour"), (7, "team"),
    ]  # fmt: skip
    monkeypatch.setattr("sys.stdin", io.StringIO('{"team": "letters"}\n' * 1200))
    assert len(run("submit", "--file", "-").stdout.split()) == 1200
    assert "cannot read" in run("submit", "--file", "none", code=2).stderr
    assert "--file" in run("submit", "letters", "--file", "tasks.jsonl", "--goal", "x", code=2).stderr


def test_submit_and_wait_tells_failure_by_its_exit_code(api: LiveApi, run: Run) -> None:
    late = run("submit", "letters", "--plan", "@plan.json", "--wait", "--timeout", "0.2", code=1)
    assert "has not ended" in late.stderr
    task = json.loads(run("tasks", "--json").stdout)[0]["id"]
    settle(api.engine, claim(api.engine, task, "a"), Bury(failure=Failure(code="agent.unable", text="no\x1b[31m")))
    watched = run("watch", task, code=1)
    assert "task failed: agent.unable" in watched.stdout
    assert "\x1b" not in watched.stdout
    assert json.loads(run("result", task, code=1).stdout)["missing"] == {"a": "dead"}


def test_dead_letters_and_questions(api: LiveApi, run: Run) -> None:
    task = run("submit", "letters", "--plan", "@plan.json").stdout.strip()
    settle(api.engine, claim(api.engine, task, "a"), Ask(text="Which colour?"))
    (question,) = json.loads(run("questions", "list", "--json").stdout)
    assert "answered" in run("questions", "answer", question["id"], "blue").stdout
    assert "not open" in run("questions", "answer", question["id"], "red", code=1).stderr
    settle(api.engine, claim(api.engine, task, "a"), Bury(failure=Failure(code="agent.unable", text="no")))
    (letter,) = json.loads(run("dead-letters", "list", "--json").stdout)
    assert "agent.unable" in run("dead-letters", "show", letter["id"]).stdout
    run("dead-letters", "redrive", code=2)
    run("dead-letters", "redrive", "--all", code=2)
    assert "redriven" in run("dead-letters", "redrive", "--all", "--reason-code", "agent.unable").stdout
    assert "unchanged" in run("dead-letters", "redrive", letter["id"]).stdout
    settle(api.engine, claim(api.engine, task, "a"), Bury(failure=Failure(code="agent.unable", text="no")))
    (letter,) = json.loads(run("dead-letters", "list", "--json").stdout)
    run("dead-letters", "discard", letter["id"], code=2)
    assert "discarded" in run("dead-letters", "discard", letter["id"], "--reason", "enough").stdout
    assert "no dead letters" in run("dead-letters", "list").stderr


def test_a_dead_letter_is_worked_on_from_the_command_line(api: LiveApi, run: Run, tmp_path: Path) -> None:
    (tmp_path / "two.json").write_text(
        json.dumps({"steps": [*PLAN["steps"], {"id": "b", "agent": "write", "needs": ["a"]}]})
    )
    task = run("submit", "letters", "--plan", "@two.json").stdout.strip()
    failure = Failure(code="agent.unable", text="no colour", detail="line 1")
    settle(api.engine, claim(api.engine, task, "a"), Bury(failure=failure))
    (letter,) = json.loads(run("dead-letters", "list", "--json", "--agent", "write", "--since", "1h").stdout)
    assert "no dead letters" in run("dead-letters", "list", "--until", "1h").stderr
    assert "nor an age" in run("dead-letters", "list", "--since", "soon", code=2).stderr
    assert run("dead-letters", "counts").stdout.splitlines()[1].split()[:2] == ["1", "agent.unable"]
    assert "gate.rejected" in run("dead-letters", "codes").stdout
    run("dead-letters", "note", letter["id"], "ask Ann about\x1b[31m colours")
    assert "edited" in run("dead-letters", "edit", letter["id"], "--input", '{"colour": "red"}').stdout
    assert "--input @file" in run("dead-letters", "edit", letter["id"], code=2).stderr
    page = run("dead-letters", "show", letter["id"]).stdout
    for said in (
        "what to do",
        "no colour",
        "line 1",
        "attempt 1",
        '"colour": "red"',
        "holds up:\nb skipped",
        "the admin: ask Ann",
    ):
        assert said in page
    assert "\x1b" not in page
    assert f"{letter['id']} would be redriven" in run("dead-letters", "redrive", letter["id"], "--dry-run").stdout
    words = ("--all", "--reason", "agent.unable", "--text", "COLOUR", "--per-second", "2")
    done = json.loads(run("dead-letters", "redrive", *words, "--json").stdout)
    assert (done["redriven"], done["seconds"]) == ([letter["id"]], 0.5)
    run("dead-letters", "export", "--all", "--output", "all.jsonl")
    (line,) = (tmp_path / "all.jsonl").read_text().splitlines()
    assert [edit["after"] for edit in json.loads(line)["edits"]] == [{"colour": "red"}]
    for words in (("--all",), (letter["id"], "--team", "letters"), (letter["id"], "--all", "--team", "letters")):
        run("dead-letters", "redrive", *words, code=2)


def test_the_installation(run: Run) -> None:
    queues = run("queues").stdout
    assert "execute" in queues
    assert "SENT FOR" in queues
    assert "no workers" in run("workers").stderr
    assert json.loads(run("workers", "--json").stdout) == []
    assert "letters" in run("teams", "list").stdout
    assert json.loads(run("teams", "show", "letters").stdout)["name"] == "letters"
    assert "no dev server" in run("scale", "executor=2", code=1).stderr
    run("scale", "executor", code=2)
    run("scale", "nobody=1", code=2)


def test_keys_are_made_listed_and_revoked(run: Run) -> None:
    key = run("keys", "create", "--role", "viewer", "--name", "ci", "--tenant", "fresh").stdout.strip()
    assert run("tasks", "--json", ORCHESTRATOR_API_KEY=key).stdout == "[]\n"
    listed = run("keys", "list", "--tenant", "fresh").stdout
    assert "ci" in listed
    assert key not in listed
    run("keys", "revoke", "ci", "--tenant", "fresh")
    run("keys", "revoke", "ci", "--tenant", "fresh", code=1)
    run("keys", "create", "--role", "king", "--name", "x", code=2)
    run("keys", "create", "--role", "viewer", "--name", "x", "--tenant", "../", code=2)


def test_a_name_is_one_live_key(run: Run) -> None:
    run("keys", "create", "--role", "viewer", "--name", "reader")
    refused = run("keys", "create", "--role", "viewer", "--name", "reader", code=1)
    assert "live key named 'reader'" in refused.stderr
    assert "keys revoke" in refused.stderr
    run("keys", "create", "--role", "viewer", "--name", "reader", "--tenant", "elsewhere")
    run("keys", "revoke", "reader")
    run("keys", "create", "--role", "viewer", "--name", "reader", "--days", "0.00000001")
    run("keys", "create", "--role", "viewer", "--name", "reader")  # the one before has expired


def test_a_worker_of_nothing_does_not_start(program: Run, engine: Engine) -> None:
    refused = program("worker", "nope", code=2)
    assert "'nope' is neither a role (planner, executor, reviewer) nor a queue of an applied team" in refused.stderr
    team = Team(name="far", agents={"write": Agent(call="letters:write", queue="far-away")})
    apply_team(engine, team)
    assert "far-away" in program("worker", "nope", code=2).stderr
    with transaction(engine) as connection:
        assert queues_of_teams(connection) == {"far-away"}


def test_a_built_in_team_is_copied_to_be_changed(run: Run, tmp_path: Path, engine: Engine) -> None:
    said = run("teams", "copy", "assistant", "mine").stdout.split()
    assert said == [str(Path("mine") / name) for name in ("plan.md", "review.md", "team.toml", "work.md")]
    prompt = tmp_path / "mine" / "work.md"
    prompt.write_text("Be brief.\n" + prompt.read_text())
    assert run("teams", "apply", "mine").stdout.startswith("assistant ")
    with transaction(engine) as connection:
        team = load_team(connection, "default", head_digest(connection, "default", "assistant"))
    assert team.prompts["work"].startswith("Be brief.")
    assert "is there already" in run("teams", "copy", "assistant", "mine", code=2).stderr
    assert "there are assistant, diagnostics, survey" in run("teams", "copy", "nobody", "other", code=2).stderr


def test_check_says_what_is_missing_for_a_model(run: Run) -> None:
    assert "model_api_key" in run("check").stdout
    assert "needs a key: set model_api_key" in run("check", code=1, ORCHESTRATOR_MODEL="openai-chat:m").stdout
    with_key = run("check", ORCHESTRATOR_MODEL="openai-chat:m", ORCHESTRATOR_MODEL_API_KEY="a secret of mine").stdout
    assert "openai-chat:m at openai-chat's own address, with a key" in with_key
    assert "a secret of mine" not in with_key
    usual = run("check", ORCHESTRATOR_MODEL="openai:m", OPENAI_API_KEY="a secret of mine").stdout
    assert "with the key in OPENAI_API_KEY" in usual
    assert "a secret of mine" not in usual
    url = "http://127.0.0.1:1/v1"
    local = run("check", ORCHESTRATOR_MODEL="openai-chat:m", ORCHESTRATOR_MODEL_BASE_URL=url).stdout
    assert f"openai-chat:m at {url}, without a key" in local


def test_check_says_what_a_teams_agents_lack(run: Run, tmp_path: Path) -> None:
    team = tmp_path / "mine"
    team.mkdir()
    (team / "p.md").write_text("Be brief.")
    agent = '[agents.{}]\nkind = "llm"\nprompt = "p"\n{}\n'
    agents = {
        "plain": "",
        "named": 'model = "anthropic:m"\napi_key = "env:MY_KEY"',
        "filed": f'model = "openai:m"\napi_key = "file:{tmp_path}/key"',
        "usual": 'model = "openai:m"',
        "local": 'model = "openai-chat:m"\nbase_url = "http://127.0.0.1:1/v1"',
    }
    (team / "team.toml").write_text('name = "mine"\n' + "".join(agent.format(*each) for each in agents.items()))
    said = run("check", "mine").stdout
    for lacking in (
        "plain: no model is named",
        "named: anthropic:m needs a key: env:MY_KEY is not here",
        f"filed: openai:m needs a key: file:{tmp_path}/key is not here",
        "usual: openai:m needs a key: give api_key, or set OPENAI_API_KEY",
    ):
        assert lacking in said, said
    assert "local:" not in said
    (tmp_path / "key").write_text("k")
    keys = {"MY_KEY": "k", "OPENAI_API_KEY": "k", "ORCHESTRATOR_MODEL_API_KEY": "k"}
    assert {
        row["status"]
        for row in json.loads(run("check", "mine", "--json", ORCHESTRATOR_MODEL="openai:m", **keys).stdout)
    } == {"ok"}


def test_check_names_what_is_wrong(run: Run, tmp_path: Path, engine: Engine) -> None:
    found = {row["what"]: row["status"] for row in json.loads(run("check", "--json").stdout)}
    assert found.pop("model") == "none"
    assert set(found.values()) == {"ok"}
    assert "signing_keys" in run("check", code=1, ORCHESTRATOR_SIGNING_KEYS="").stdout
    assert "lease_seconds" in run("check", code=1, ORCHESTRATOR_LEASE_SECONDS="soon").stdout
    assert "database" in run("check", code=1, ORCHESTRATOR_DATABASE_URL="postgresql://x@127.0.0.1:1/x").stdout
    assert "broker" in run("check", code=1, ORCHESTRATOR_BROKER_URL="redis://127.0.0.1:1/0").stdout
    team = tmp_path / "broken"
    team.mkdir()
    (team / "team.toml").write_text('name = "broken"\n[agents.a]\ncall = "nowhere:f"\ncolour = "red"\n')
    for code, words in ((1, ("check", "broken")), (2, ("teams", "apply", "broken"))):
        done = run(*words, code=code)
        said = done.stdout + done.stderr
        assert "team.toml" in said
        assert "colour" in said


def test_verify_exits_1_when_an_invariant_is_broken(run: Run) -> None:
    assert "no violations" in run("verify").stderr
    assert json.loads(run("verify", "--json").stdout) == []


def test_bad_use_is_2_and_an_unreachable_service_3(run: Run) -> None:
    for words in (("submit",), ("nonsense",), ("tasks", "--nonsense"), ("tasks", "--limit", "many"), ("status",)):
        run(*words, code=2)
    for words in (("tasks",), ("status", "x"), ("watch", "x"), ("submit", "letters")):
        assert "cannot reach" in run(*words, code=3, ORCHESTRATOR_API_URL="http://127.0.0.1:1").stderr
    assert "did you mean" in run("tasks", code=1, ORCHESTRATOR_API_KYE="x").stderr
    assert "unknown" in run("tasks", code=1, ORCHESTRATOR_API_KEY="x").stderr
    run("verify", code=3, ORCHESTRATOR_DATABASE_URL="postgresql://x@127.0.0.1:1/x")
    run("keys", "list", code=3, ORCHESTRATOR_DATABASE_URL="postgresql://x@127.0.0.1:1/x")


def test_the_api_refuses_to_start_where_it_cannot_serve(api: LiveApi, program: Run) -> None:
    port = api.url.rpartition(":")[2]
    assert "listen_port" in program("api", "--port", port, code=1).stderr
    free = {"ORCHESTRATOR_LISTEN_PORT": "0"}
    assert "signing_keys" in program("api", code=1, ORCHESTRATOR_SIGNING_KEYS="", **free).stderr
    program("api", code=3, ORCHESTRATOR_DATABASE_URL="postgresql://x@127.0.0.1:1/x", **free)


def test_a_reader_that_leaves_is_no_error(run: Run, environment: dict[str, str]) -> None:
    for _ in range(3):
        run("submit", "letters", "--goal", "x" * 20_000)
    line = f"{sys.executable} -m orchestrator tasks --json | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("[0\n", "")


def test_no_command_imports_what_it_does_not_need() -> None:
    """Client commands start fast: nothing of the server, the broker or the database is imported for them."""
    program = (
        "import sys; from orchestrator.cli import make_app; import orchestrator.cli.tasks, orchestrator.cli.people,"
        "orchestrator.cli.dead_letters, orchestrator.cli.watch, orchestrator.cli.installation; make_app();"
        "print([name for name in ('fastapi', 'celery', 'kombu', 'sqlalchemy', 'uvicorn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
