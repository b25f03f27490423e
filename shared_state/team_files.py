"""A team as files: `team.toml`, prompts in `.md` files beside it, schemas read from its code by a child process."""

import json
import os
import signal
import subprocess
import sys
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from contracts.errors import InvalidInput
from contracts.teams import Agent, Kind, Schemas, Team

FILE = "team.toml"
DESCRIBE_SECONDS = 60.0
_SIZE_LIMIT_BYTES = 1_000_000
_MADE = {"prompts": "the .md files beside the team's file", "schemas": "the annotations of its agents"}
"""Keys of a team that its file may not have, and where they come from instead."""


def find_teams(directory: Path) -> list[Path]:
    """The folders that hold a team: the one given, or else those directly in it. Raises `InvalidInput`."""
    if not directory.is_dir():
        raise InvalidInput(f"{directory}: there is no such folder")
    if (directory / FILE).is_file():
        return [directory]
    try:
        return sorted(each for each in directory.iterdir() if (each / FILE).is_file())
    except OSError as error:
        raise InvalidInput(f"{directory}: {error.strerror}") from error


def read_team(directory: Path, *, timeout_seconds: float = DESCRIBE_SECONDS) -> Team:
    """The team in a folder, complete. Raises `InvalidInput` that names file, key and reason of every mistake.

    Its agents' code is imported in a child process, with the folder on its import path; the worker needs the code
    importable too.
    """
    file = directory / FILE
    team = _validate(file, {**_read_toml(file), "prompts": _read_prompts(directory)})
    schemas = _describe(file, team, timeout_seconds)
    return team.model_copy(update={"schemas": schemas})


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        definition = tomllib.loads(_read_text(file))
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{file}: not TOML: {error}") from error
    for key, origin in _MADE.items():
        if key in definition:
            raise InvalidInput(f"{file}: {key}: comes from {origin}; remove it", field=key)
    return definition


def _read_prompts(directory: Path) -> dict[str, str]:
    """Text by file name without `.md`; a README is for people."""
    files = sorted(each for each in directory.glob("*.md") if each.stem.lower() != "readme")
    return {each.stem: _read_text(each) for each in files}


def _read_text(file: Path) -> str:
    try:
        body = file.read_bytes()
    except FileNotFoundError as error:
        raise InvalidInput(f"{file}: there is no such file") from error
    except OSError as error:
        raise InvalidInput(f"{file}: cannot be read: {error.strerror}") from error
    if len(body) > _SIZE_LIMIT_BYTES:
        raise InvalidInput(f"{file}: has {len(body)} bytes; at most {_SIZE_LIMIT_BYTES} are read")
    try:
        # As Python reads text files: a prompt is the same team on every system.
        text = body.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = body[: error.start].count(b"\n") + 1
        raise InvalidInput(f"{file}: line {line} is not UTF-8 text") from error
    if "\0" in text:
        raise InvalidInput(f"{file}: line {text[: text.index(chr(0))].count(chr(10)) + 1} holds a NUL character")
    return text


def _validate(file: Path, definition: dict[str, Any]) -> Team:
    try:
        team = Team.model_validate(definition)
    except ValidationError as error:
        raise _refuse(file, error) from error
    if "\\u0000" in json.dumps(team.model_dump(mode="json")).replace("\\\\", ""):
        raise InvalidInput(f"{file}: a text in it holds a NUL character (\\u0000), which cannot be stored")
    return team


def _refuse(file: Path, error: ValidationError) -> InvalidInput:
    mistakes = error.errors(include_url=False, include_input=False, include_context=False)
    said = []
    for each in mistakes[:10]:
        key = ".".join(str(part) for part in each["loc"] if part != "[key]")
        reason = "unknown key" if each["type"] == "extra_forbidden" else each["msg"].removeprefix("Value error, ")
        said.append(f"{key}: {reason}" if key else reason)
    if len(mistakes) > len(said):
        said.append(f"and {len(mistakes) - len(said)} more")
    first = ".".join(str(part) for part in mistakes[0]["loc"] if part != "[key]")
    return InvalidInput(f"{file}: {'; '.join(said)}", field=first)


def _describe(file: Path, team: Team, timeout_seconds: float) -> dict[str, Schemas]:
    agents = {name: _asked_of(agent, team) for name, agent in team.agents.items()}
    question = json.dumps({"agents": agents, "paths": [str(file.parent.absolute())]}).encode()
    output, status = _run_describe(question, timeout_seconds)
    described: dict[str, dict[str, Any]] = {}
    for line in output.splitlines():
        with suppress(ValueError, TypeError):
            described.update(json.loads(line))
    mistakes = [f"agents.{name}.{each['error']}" for name, each in described.items() if each["error"]]
    missing = next((name for name in agents if name not in described), None)
    if missing is not None:
        how = f"did not end within {timeout_seconds:g} s" if status is None else f"ended the process (status {status})"
        mistakes.append(f"agents.{missing}.call: importing its code {how}")
    if mistakes:
        field = mistakes[0].partition(":")[0]
        raise InvalidInput(f"{file}: {'; '.join(mistakes)}", field=field)
    return {
        name: Schemas(input=described[name]["input"], output=described[name]["output"])
        for name, agent in team.agents.items()
        if agent.call is not None or agent.input is not None or agent.output is not None
    }


def _asked_of(agent: Agent, team: Team) -> dict[str, Any]:
    """What `workers.describe` is to look at."""
    asked: dict[str, Any] = {"call": agent.call, "gates": agent.gates}
    if agent.kind is Kind.LLM:
        prompt = team.prompts.get(agent.prompt or "", "")
        asked["llm"] = {"prompt": prompt, "tools": agent.tools, "input": agent.input, "output": agent.output}
    return asked


def _run_describe(question: bytes, timeout_seconds: float) -> tuple[bytes, int | None]:
    """What the child printed and its exit status, null when it ran out of time. Nothing of it runs on."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ORCHESTRATOR_")}
    environment["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "workers.describe"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    with child:
        try:
            output, _ = child.communicate(question, timeout_seconds)
            return output, child.returncode
        except subprocess.TimeoutExpired as expired:
            return expired.stdout or b"", None
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
