"""Team `survey`, run in one process with its gates; every report is verified by the separate checker."""

import copy
import json
import sys
import sysconfig
import tomllib
import xml.dom.minidom
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "checkers"))

import hostile
import in_process
import survey_checker

from contracts import Done, Plan, Result, Unable
from contracts.teams import Team
from contracts.testing import context
from workers.agents.load import load
from workers.gates import Subject, check_names, run_gates
from workers.gates.sources import spell
from workers.teams.survey import agents
from workers.teams.survey.group import STEPS_GOAL, group_files
from workers.teams.survey.shapes import Group, Joint, Wish

PROJECT = Path(__file__).parents[2]


def surveyed(folder: Path, out: Path) -> tuple[Done, dict[str, Any]]:
    done, _ = in_process.survey(folder, out)
    return done, json.loads((out / "report.json").read_text())


def lies(report: dict[str, Any], folder: Path) -> list[str]:
    return survey_checker.check(report, str(folder))[0]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "hostile"
    hostile.generate(made)
    yield made
    hostile.open_up(made)


def test_the_team_is_valid_and_its_agents_load() -> None:
    team = Team.model_validate(tomllib.loads((Path(agents.__file__).parent / "team.toml").read_text()))
    assert team.planner == "plan"
    for agent in team.agents.values():
        assert load(agent.call or "").input is not None
        assert check_names(agent.gates) == []


def test_every_fact_about_a_hostile_folder_is_true(folder: Path, tmp_path: Path) -> None:
    done, report = surveyed(folder, tmp_path / "out")
    assert lies(report, folder) == []
    assert "syntax" in (done.degraded or "")


def test_every_problem_is_told_with_its_reason(folder: Path, tmp_path: Path) -> None:
    hostile.open_up(folder)
    _, report = surveyed(folder, tmp_path / "out")
    expected = {name: problem for name, (_, problem) in {**hostile.PYTHON, **hostile.OTHER}.items()}
    told = {each["path"]: each["problem"] for each in report["problems"]}
    assert {path: told.get(spell(path)) for path in expected} == expected
    assert told["pipe.py"] == "not_regular"
    assert told["escape.py"] == told["device.py"] == told["folder_out"] == "symlink_outside"
    assert told["loop_a"] == told["itself.py"] == "symlink_broken"
    assert "SECRET" not in json.dumps([each for each in report["files"] if each["path"] != "secret.py"])
    assert "NEVER" not in json.dumps(report)


def test_reports_of_a_hostile_folder_are_well_formed(folder: Path, tmp_path: Path) -> None:
    surveyed(folder, tmp_path / "out")
    xml.dom.minidom.parse(str(tmp_path / "out" / "graph.svg"))
    page = (tmp_path / "out" / "report.html").read_text()
    tags: list[tuple[str, dict[str, str | None]]] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append((tag, dict(attrs)))

    Tags().feed(page)
    assert not {"script", "b>", "img", "link", "iframe"} & {tag for tag, _ in tags}
    links = [value or "" for _, attributes in tags for key, value in attributes.items() if key in ("href", "src")]
    assert links
    assert all(link.startswith("#") for link in links)


def test_every_fact_about_this_project_is_true(tmp_path: Path) -> None:
    done, report = surveyed(PROJECT / "workers", tmp_path)
    assert lies(report, PROJECT / "workers") == []
    pairs = {(edge["path"], edge["target"]) for edge in report["edges"]}
    assert ("teams/survey/agents.py", "teams/survey/walk.py") in pairs
    assert ("gates/files.py", "gates/facts.py") in pairs
    # Named in team.toml only: neither imported nor unused.
    assert "teams/survey/agents.py" not in {each["path"] for each in report["unused"]}
    assert set(done.output.files) == {"report.json", "report.md", "report.html", "graph.svg"}


@pytest.mark.parametrize("package", ["json", "email", "asyncio"])
def test_every_fact_about_a_library_is_true(package: str, tmp_path: Path) -> None:
    root = Path(sysconfig.get_paths()["stdlib"]) / package
    if not root.is_dir():
        pytest.skip(f"this Python has no {package}")
    _, report = surveyed(root, tmp_path)
    assert lies(report, root) == []
    assert report["prefix"] == [package]
    assert report["edges"]


def test_a_survey_is_the_same_every_time(folder: Path, tmp_path: Path) -> None:
    surveyed(folder, tmp_path / "first")
    surveyed(folder, tmp_path / "second")
    for name in ("report.json", "report.md", "report.html", "graph.svg"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


TREE = {
    "app/__init__.py": "",
    "app/core.py": '"""The core."""\nfrom app import tools\n\n\ndef run():\n    return tools  # TODO: more\n',
    "app/tools.py": "import json\n\nVALUE = 1\n\n\nclass Tool:\n    def use(self):\n        return 1\n",
    "app/orphan.py": "from .core import run\n",
    "app/plugin.py": "NAME = 'plugin'\n",
    "app/cli.py": "from app.core import run\n\nif __name__ == '__main__':\n    run()\n",
    "settings.toml": 'plugin = "app.plugin:NAME"\n',
    "src/lib/__init__.py": "from lib.inner import thing\n",
    "src/lib/inner.py": "thing = 1\n",
    "scripts/job.py": "#!/usr/bin/env python\nimport shared\n",
    "scripts/shared.py": "import app.core\n",
    "broken.py": "def (\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name, text in TREE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_imports_and_unused_modules_of_a_small_tree(tree: Path, tmp_path: Path) -> None:
    _, report = surveyed(tree, tmp_path / "out")
    assert lies(report, tree) == []
    assert {(edge["path"], edge["target"]) for edge in report["edges"]} == {
        ("app/core.py", "app/tools.py"),
        ("app/orphan.py", "app/core.py"),
        ("app/cli.py", "app/core.py"),
        ("src/lib/__init__.py", "src/lib/inner.py"),
        ("scripts/job.py", "scripts/shared.py"),
        ("scripts/shared.py", "app/core.py"),
    }
    assert [each["path"] for each in report["unused"]] == ["app/orphan.py", "broken.py"]


def _file(report: dict[str, Any], path: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in report["files"] if each["path"] == path)
    return found


def _drop_file(report: dict[str, Any]) -> None:
    report["files"].remove(_file(report, "app/plugin.py"))


def _hide_problem(report: dict[str, Any]) -> None:
    report["problems"].clear()


SEEDED: dict[str, Callable[[dict[str, Any]], object]] = {
    "text": lambda r: _file(r, "app/core.py")["names"][0].update(text="def walk():"),
    "line": lambda r: _file(r, "app/core.py")["names"][0].update(line=4),
    "name": lambda r: _file(r, "app/core.py")["names"][0].update(name="walk"),
    "name's kind": lambda r: _file(r, "app/core.py")["names"][0].update(kind="class"),
    "name left out": lambda r: _file(r, "app/tools.py")["names"].pop(),
    "name doubled": lambda r: _file(r, "app/tools.py")["names"].append(_file(r, "app/tools.py")["names"][0]),
    "size": lambda r: _file(r, "app/core.py").update(size_bytes=1),
    "line count": lambda r: _file(r, "app/core.py").update(line_count=7),
    "digest": lambda r: _file(r, "app/core.py").update(sha256="0" * 64),
    "module": lambda r: _file(r, "app/core.py").update(module="core"),
    "import": lambda r: _file(r, "app/tools.py")["imports"][0].update(module="yaml"),
    "import left out": lambda r: _file(r, "app/tools.py")["imports"].clear(),
    "import's names": lambda r: _file(r, "app/core.py")["imports"][0].update(names=["other"]),
    "function's end": lambda r: _file(r, "app/core.py")["functions"][0].update(last_line=5),
    "function's length": lambda r: _file(r, "app/core.py")["functions"][0].update(length_lines=3),
    "function's name": lambda r: _file(r, "app/tools.py")["functions"][0].update(name="use"),
    "function left out": lambda r: _file(r, "app/tools.py")["functions"].clear(),
    "function count": lambda r: _file(r, "app/tools.py").update(function_count=2),
    "mark": lambda r: _file(r, "app/core.py")["marks"][0].update(mark="XXX"),
    "mark left out": lambda r: _file(r, "app/core.py")["marks"].clear(),
    "mention": lambda r: _file(r, "settings.toml")["mentions"][0].update(target="app/core.py"),
    "entry": lambda r: _file(r, "app/cli.py").update(entry=None),
    "doc": lambda r: _file(r, "app/core.py").update(doc=None),
    "edge": lambda r: r["edges"][0].update(target="app/plugin.py"),
    "edge left out": lambda r: r["edges"].pop(),
    "unused": lambda r: r["unused"].append({**r["unused"][0], "path": "app/tools.py", "module": "app.tools"}),
    "unused left out": lambda r: r["unused"].pop(0),
    "problem": lambda r: r["problems"][0].update(problem="encoding"),
    "problem hidden": _hide_problem,
    "file left out": _drop_file,
    "file invented": lambda r: r["lost"].append("app/invented.py"),
    "rule": lambda r: r["rules"]["skipped_folders"].append("app"),
    "folder skipped": lambda r: r["skipped"].append({"folder": "app", "reason": "no"}),
    "degraded": lambda r: r.update(degraded=None),
    "summary's count": lambda r: r["summary"].update(line_count=1),
    "summary's longest": lambda r: r["summary"]["longest"].reverse(),
    "summary's largest": lambda r: r["summary"]["largest"].pop(0),
}


def test_the_checker_finds_every_kind_of_lie(tree: Path, tmp_path: Path) -> None:
    _, report = surveyed(tree, tmp_path / "out")
    believed = []
    for kind, lie in SEEDED.items():
        lied = copy.deepcopy(report)
        lie(lied)
        assert lied != report, kind
        if not lies(lied, tree):
            believed.append(kind)
    assert believed == []


def test_the_gate_refuses_a_reading_that_lies(tree: Path) -> None:
    plan = agents.plan(context(), Wish(path=str(tree)))
    assert isinstance(plan, Plan)
    step = next(step for step in plan.steps if step.input.get("files") == ["app/core.py"])
    done = agents.read(context(), Group.model_validate(step.input))
    assert isinstance(done, Done)
    output = json.loads(done.output.model_dump_json())
    output["files"][0]["names"][0]["text"] = "def walk():"
    verdict = run_gates(["files"], Subject(agent="read", output=output, input=step.input))[-1]
    assert verdict.result is Result.FAIL
    assert verdict.reasons[0].where == "/files/0/names/0/text"
    assert verdict.reasons[0].expected == "def run():"


def test_a_path_that_is_no_folder_is_refused() -> None:
    for path in ("/no/such/folder", __file__, "nul\0byte"):
        assert isinstance(agents.plan(context(), Wish(path=path)), Unable)


def test_an_empty_folder_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done, report = surveyed(tmp_path / "empty", tmp_path / "out")
    assert lies(report, tmp_path / "empty") == []
    assert done.degraded is None
    assert report["summary"]["file_count"] == 0


def test_files_whose_step_was_lost_are_told(tree: Path) -> None:
    ctx = context()
    plan = agents.plan(ctx, Wish(path=str(tree)))
    assert isinstance(plan, Plan)
    done = agents.join(ctx, Joint.model_validate(plan.steps[-1].input))
    assert isinstance(done, Done)
    assert done.output.summary.lost_count == len(TREE)
    assert f"{len(TREE)} files of steps that ended without an output" in (done.degraded or "")


def test_files_beyond_the_limit_are_told(tree: Path, tmp_path: Path) -> None:
    done, _ = in_process.survey(tree, tmp_path / "out", files_limit=5)
    assert "7 files beyond the limit" in (done.degraded or "")
    assert lies(json.loads((tmp_path / "out" / "report.json").read_text()), tree) == []


@pytest.mark.parametrize(
    "sizes",
    [[], [0], [10] * 99, [10] * 100, [1] * 100_000, [5_000_000] * 5000, [1] * 500 + [2_000_000] * 200 + [0] * 9000],
)
def test_a_tree_of_any_size_fits_300_steps(sizes: list[int]) -> None:
    files = {f"f{index}": size for index, size in enumerate(sizes)}
    groups = group_files(files)
    assert [path for group in groups.values() for path in group] == list(files)
    assert len(groups) < 300
    if len(sizes) <= STEPS_GOAL:
        assert len(groups) == len(sizes)


def test_facts_of_one_file_are_bounded_and_the_rest_is_counted(tmp_path: Path) -> None:
    (tmp_path / "many.py").write_text("".join(f"name_{index} = {index}  # TODO\n" for index in range(50)))
    done = agents.read(context(), Group(root=str(tmp_path), files=["many.py"], facts_limit=20))
    assert isinstance(done, Done)
    reading = done.output.files[0]
    assert (len(reading.names), len(reading.marks)) == (20, 20)
    assert reading.omitted == {"names": 30, "marks": 30}


def test_nothing_is_unused_where_not_all_imports_are_known(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "many.py").write_text("".join(f"import other_{index}\n" for index in range(2500)))
    (root / "quiet.py").write_text("VALUE = 1\n")
    done, report = surveyed(root, tmp_path / "out")
    assert report["unused"] == []
    assert "no unused modules" in (done.degraded or "")
    assert lies(report, root) == []
