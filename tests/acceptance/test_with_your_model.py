"""What README.md says under "With your model", typed as it stands, and the agent of docs/models.md in its two files.

Only the address, the name and the key are another's: a scripted provider's, which answers like an OpenAI-compatible
endpoint; and the port is a free one.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.providers.asked import Ask
from tests.providers.scripted import Say, ScriptedProvider

from .dev_process import Dev

ROOT = Path(__file__).parents[2]
KEY = "sk-of-a-person-who-follows-the-readme"
HEADLINE = "Bridge at Aarwangen opens Monday"


def blocks(file: Path, heading: str) -> list[str]:
    """The fenced blocks below a heading, up to the next of its level."""
    level = heading.partition(" ")[0]
    text = file.read_text(encoding="utf-8").partition(f"\n{heading}\n")[2]
    assert text, heading
    section = re.split(rf"\n{level} ", text)[0]
    return re.findall(r"```[a-z]*\n(.*?)```", section, re.DOTALL)


class Shell(Dev):
    """`orchestrator dev` as the first block starts it: its exports, then its last line, in one shell."""

    def __init__(self, folder: Path, block: str, provider: ScriptedProvider) -> None:
        super().__init__(folder / ".orchestrator", output="dev.txt")
        theirs = {"MODEL_BASE_URL": provider.url, "MODEL_API_KEY": KEY}
        lines = []
        for line in block.splitlines():
            name = re.match(r"export ORCHESTRATOR_(\w+)=", line)
            lines.append(f"export ORCHESTRATOR_{name[1]}={theirs[name[1]]}" if name and name[1] in theirs else line)
        if "MODEL_BASE_URL" not in block:  # where the document means the provider's own address
            lines.insert(0, f"export ORCHESTRATOR_MODEL_BASE_URL={provider.url}")
        self.script = "\n".join([*lines[:-1], f"exec {lines[-1]}"])

    def command(self) -> list[str]:
        return ["bash", "-ec", self.script]

    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**super().environment(), "PATH": path, "ORCHESTRATOR_LISTEN_PORT": "0"}

    def type(self, line: str) -> str:
        """One line in another shell in the same folder, which knows nothing of the first one's variables."""
        environment = {**super().environment(), "PATH": self.environment()["PATH"]}
        done = subprocess.run(
            ["bash", "-ec", line], cwd=self.data_dir.parent, env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, (line, done)
        return done.stdout


@pytest.fixture
def provider() -> Iterator[ScriptedProvider]:
    with ScriptedProvider() as started:
        started.on(lambda ask: "plan" in ask.tools, plan)
        started.on(lambda ask: "answer" in ask.tools, answer)
        started.on(lambda ask: "judge" in ask.tools, Say(calls=[("judge", {"accepted": True})]))
        started.on(lambda ask: "at most 8 words" in ask.system, Say(HEADLINE))
        yield started


def plan(ask: Ask) -> Say:
    order = {"instruction": "Add up the prices of the order.", "done_when": "each price is counted once"}
    return Say(calls=[("plan", {"steps": [{"id": "total", "agent": "work", "input": order}]})])


def answer(ask: Ask) -> Say:
    if not ask.results:
        return Say(calls=[("read_source", {"source": "task"})])
    if len(ask.results) == 1:
        return Say(calls=[("calculate", {"expression": "120.50 + 79.50"})])
    value = json.loads(ask.results[-1].text)["data"]["value"]
    return Say(calls=[("answer", {"answer": f"The order costs {value} EUR."})])


def test_the_readme_works_as_written(tmp_path: Path, provider: ScriptedProvider) -> None:
    start, ask = blocks(ROOT / "README.md", "## With your model")
    with Shell(tmp_path, start, provider) as dev:
        assert "openai-chat:gpt-5-mini at http" in dev.output()
        submit, result, steps, calls, questions = ask.splitlines()
        task = task_in(dev.type(submit))
        said = json.loads(dev.type(result.replace("TASK", task)))
        assert said["outputs"]["total"]["answer"] == "The order costs 200 EUR."
        table = dev.type(steps.replace("TASK", task))
        step = next(line.split()[0] for line in table.splitlines() if " total " in line)
        shown = dev.type(calls.replace("STEP", step))
        assert "What does the order cost?" in shown
        assert "desk 120.50 EUR" in shown
        assert "200 EUR" in shown
        assert dev.type(questions) == ""
        assert dev.stop(signal.SIGINT) == 0
        assert KEY not in dev.output() + shown
    assert provider.unscripted == []
    assert {ask.headers["authorization"] for ask in provider.ledger} == {f"Bearer {KEY}"}
    assert {ask.model for ask in provider.ledger} == {"gpt-5-mini"}


def test_the_smallest_agent_of_the_document_works_as_written(tmp_path: Path, provider: ScriptedProvider) -> None:
    team, prompt, start, ask = blocks(ROOT / "docs" / "models.md", "## The smallest one, in two files")
    (tmp_path / "team.toml").write_text(team)
    (tmp_path / "write.md").write_text(prompt)
    with Shell(tmp_path, start, provider) as dev:
        submit, result = ask.splitlines()
        task = task_in(dev.type(submit))
        said = json.loads(dev.type(result.replace("TASK", task)))
        assert list(said["outputs"].values()) == [HEADLINE]
    assert provider.unscripted == []


def task_in(shown: str) -> str:
    """The id in what `submit --wait` prints."""
    return dict(line.split(maxsplit=1) for line in shown.splitlines() if " " in line)["id"]
