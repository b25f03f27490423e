"""Teams from files: what is read, and how every mistake is named."""

import time
from pathlib import Path

import pytest

from contracts.errors import InvalidInput
from shared_state.teams import digest, find_teams, read_team

BODIES = """
from pydantic import BaseModel
from contracts import Context, Judgement, Plan, Unable

print("modules may print")

class Page(BaseModel):
    url: str

class Summary(BaseModel):
    title: str
    pages: list[Page]

def plan(ctx: Context, input: dict) -> Plan: ...
def summarise(ctx: Context, page: Page) -> Summary | Unable: ...
def review(ctx: Context, output: Summary) -> Judgement: ...
def gate(subject): ...
"""

TOML = """
name = "digest"

[agents.plan]
role = "planner"
call = "sample_team:plan"

[agents.summarise]
call = "sample_team:summarise"
review = "review"
gates = ["files", "sample_team:gate"]

[agents.review]
role = "reviewer"
call = "sample_team:review"

[agents.outside]
kind = "command"
command = ["cat"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "digest"
    folder.mkdir()
    (folder / "sample_team.py").write_text(BODIES)
    (folder / "team.toml").write_text(TOML)
    (folder / "summarise.md").write_bytes(b"Be brief.\r\n")
    (folder / "README.md").write_text("for people")
    return folder


def refused(folder: Path, toml: str, **options: float) -> InvalidInput:
    (folder / "team.toml").write_text(toml)
    with pytest.raises(InvalidInput) as caught:
        read_team(folder, **options)
    assert str(folder / "team.toml") in caught.value.text
    return caught.value


def test_a_team_is_read_with_prompts_and_closed_schemas(folder: Path) -> None:
    team = read_team(folder)
    assert team.prompts == {"summarise": "Be brief.\n"}
    assert set(team.schemas) == {"plan", "summarise", "review"}
    given, made = team.schemas["summarise"].input, team.schemas["summarise"].output
    assert given is not None
    assert made is not None
    assert given["additionalProperties"] is False
    assert made["$defs"]["Page"]["additionalProperties"] is False
    assert made["required"] == ["title", "pages"]
    assert team.schemas["plan"].output is None
    assert len(digest(team)) == 64


def test_the_digest_follows_everything_but_what_is_for_people(folder: Path) -> None:
    before = digest(read_team(folder))
    (folder / "README.md").write_text("other words")
    assert digest(read_team(folder)) == before
    (folder / "summarise.md").write_text("Be long.")
    after = digest(read_team(folder))
    assert after != before
    (folder / "sample_team.py").write_text(BODIES.replace("title: str", "title: int"))
    assert digest(read_team(folder)) not in (before, after)


@pytest.mark.parametrize(
    ("old", "new", "key", "reason"),
    [
        ('name = "digest"', 'name = "digest', "", "line 2"),
        ('name = "digest"', "", "name", "required"),
        ('name = "digest"', 'name = "Digest"', "name", "pattern"),
        ('name = "digest"', 'name = "digest"\nnames = 3', "names", "unknown key"),
        ('name = "digest"', 'name = "digest"\nprompts = {a = "b"}', "prompts", ".md"),
        ('name = "digest"', 'name = "digest"\ndescription = "a\\u0000b"', "", "NUL"),
        ('role = "planner"', 'role = "boss"', "agents.plan.role", "'planner', 'executor' or 'reviewer'"),
        ('role = "planner"', "timeout_seconds = inf", "agents.plan.timeout_seconds", "86400"),
        ('role = "planner"', 'tools = ["clock"]', "agents.plan", 'tools belongs to kind = "llm"'),
        ('review = "review"', 'review = "nobody"', "", "agents.summarise.review: there is no reviewer 'nobody'"),
        ('call = "sample_team:plan"', 'call = "sample_team"', "agents.plan", "module:function"),
        ('call = "sample_team:plan"', 'call = "sample_team:no"', "agents.plan.call", "has no 'no'"),
        ('call = "sample_team:plan"', 'call = "missing_team:f"', "agents.plan.call", "missing_team"),
        ('gates = ["files"', 'gates = ["file"', "agents.summarise.gates", "no built-in gate 'file'; there are files"),
        ("sample_team:gate", "sample_team:gat", "agents.summarise.gates", "no function 'gat'"),
    ],
)
def test_a_mistake_is_named_with_file_key_and_reason(folder: Path, old: str, new: str, key: str, reason: str) -> None:
    assert old in TOML
    error = refused(folder, TOML.replace(old, new))
    assert error.field == key
    assert reason in error.text
    assert "Traceback" not in error.text


LLM = """
name = "digest"

[agents.summarise]
kind = "llm"
prompt = "summarise"
input = "sample_team:Page"
output = "sample_team:Summary"
tools = ["clock", "read_source"]
"""


def test_an_llm_agents_schemas_come_from_the_types_it_names(folder: Path) -> None:
    (folder / "team.toml").write_text(LLM)
    schemas = read_team(folder).schemas["summarise"]
    assert schemas.input is not None
    assert schemas.output is not None
    assert schemas.input["additionalProperties"] is False
    assert schemas.output["required"] == ["title", "pages"]


@pytest.mark.parametrize(
    ("old", "new", "key", "reason"),
    [
        ('"clock"', '"fetch"', "agents.summarise.tools", "no tool 'fetch'; there are calculate, clock, list_sources"),
        ('prompt = "summarise"', 'prompt = "other"', "", "agents.summarise.prompt: there is no other.md beside"),
        ('prompt = "summarise"', "", "agents.summarise", 'an llm agent needs prompt = "name"'),
        ("sample_team:Page", "sample_team:Pages", "agents.summarise.input", "has no 'Pages'"),
        ("sample_team:Summary", "sample_team:gate", "agents.summarise.output", "no type that can be checked"),
        ("sample_team:Summary", "missing_team:Summary", "agents.summarise.output", "missing_team"),
        ('kind = "llm"', 'kind = "llm"\ncall = "a:b"', "agents.summarise", 'call belongs to kind = "python"'),
        ('kind = "llm"', 'kind = "llm"\napi_key = "sk-123"', "agents.summarise.api_key", "pattern"),
    ],
)
def test_an_llm_agents_mistake_is_named(folder: Path, old: str, new: str, key: str, reason: str) -> None:
    assert old in LLM
    error = refused(folder, LLM.replace(old, new))
    assert (error.field, reason in error.text) == (key, True), error.text


def test_a_prompt_that_names_what_no_step_has_is_refused(folder: Path) -> None:
    (folder / "summarise.md").write_text("Do {{ goal }} with {{ input.url }} and {{ inputs.a }}.")
    error = refused(folder, LLM)
    assert error.field == "agents.summarise.prompt"
    assert "{{ inputs.a }} is not known" in error.text


def test_code_that_ends_or_holds_the_process_is_named(folder: Path) -> None:
    (folder / "ending_team.py").write_text("import os; os._exit(3)")
    error = refused(folder, TOML.replace("sample_team:review", "ending_team:f"))
    assert "agents.review.call: importing its code ended the process (status 3)" in error.text
    (folder / "endless_team.py").write_text("import time; time.sleep(1000)")
    started_at = time.monotonic()
    error = refused(folder, TOML.replace("sample_team:review", "endless_team:f"), timeout_seconds=3.0)
    assert "agents.review.call: importing its code did not end within 3 s" in error.text
    assert time.monotonic() - started_at < 6


def test_files_that_are_no_text_are_named_with_their_line(folder: Path) -> None:
    for body in (b"one\ntwo\xff", b"one\ntwo\0"):
        (folder / "summarise.md").write_bytes(body)
        with pytest.raises(InvalidInput, match=r"summarise\.md: line 2"):
            read_team(folder)


def test_teams_are_found_in_a_folder_and_in_the_folders_in_it(folder: Path) -> None:
    assert find_teams(folder) == [folder]
    assert find_teams(folder.parent) == [folder]
    (folder / "empty").mkdir()
    assert find_teams(folder / "empty") == []
    with pytest.raises(InvalidInput, match="no such folder"):
        find_teams(folder / "missing")
    with pytest.raises(InvalidInput, match=r"team\.toml: there is no such file"):
        read_team(folder / "empty")


def test_the_built_in_teams_can_be_read() -> None:
    for each in find_teams(Path(__file__).parents[2] / "workers" / "teams"):
        assert read_team(each).name == each.name
