"""The gate `files`: every claim about a file is compared with the file."""

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "checkers"))

import hostile

from contracts.verdicts import Result, Verdict
from workers.gates import Subject, run_gates
from workers.gates.facts import TEXT_LIMIT
from workers.gates.sources import Unreadable, read_bytes, spell, unspell

BODY = b"first\nsecond\x0c still\r\nthird\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.py").write_bytes(BODY)
    (folder / "inner" / "b.txt").write_text("x" * 1000 + "\n")
    (tmp_path / "outside.py").write_text("secret\n")
    (folder / "link.py").symlink_to("../outside.py")
    (folder / "out").symlink_to("..")
    return folder


def judge(root: Path, output: Any, **more: Any) -> Verdict:
    subject = Subject(agent="a", output=output, input={"root": str(root), **more})
    return run_gates(["files"], subject)[-1]


def test_true_claims_pass(root: Path) -> None:
    digest = hashlib.sha256(BODY).hexdigest()
    output = {
        "files": [{"path": "a.py", "size_bytes": len(BODY), "line_count": 3, "sha256": digest}],
        "facts": [{"path": "a.py", "line": 2, "text": "second\x0c still"}],
        "deep": {"er": [[{"path": "inner/b.txt", "line": 1, "text": "x" * TEXT_LIMIT}]]},
        "there": {"path": "inner/b.txt"},
    }
    verdict = judge(root, output)
    assert verdict.result is Result.PASS, verdict.reasons
    assert verdict.gate == "files"


@pytest.mark.parametrize(
    ("claim", "code"),
    [
        ({"path": "a.py", "line": 2, "text": "second"}, "files.wrong_text"),
        ({"path": "a.py", "line": 4, "text": ""}, "files.no_line"),
        ({"path": "a.py", "line": 0, "text": "third"}, "files.no_line"),
        ({"path": "a.py", "line": -1, "text": "second\x0c still"}, "files.no_line"),
        ({"path": "a.py", "line": "1", "text": "first"}, "files.malformed"),
        ({"path": "a.py", "line": True, "text": "first"}, "files.malformed"),
        ({"path": "a.py", "line": 1}, "files.malformed"),
        ({"path": "a.py", "text": "first"}, "files.malformed"),
        ({"path": 3, "line": 1, "text": "first"}, "files.malformed"),
        ({"path": "absent.py", "line": 1, "text": "first"}, "files.missing"),
        ({"path": "absent.py"}, "files.missing"),
        ({"path": "absent.py", "size_bytes": 1}, "files.missing"),
        ({"path": "../outside.py", "line": 1, "text": "secret"}, "files.missing"),
        ({"path": "inner/../a.py", "line": 1, "text": "first"}, "files.missing"),
        ({"path": "./a.py", "line": 1, "text": "first"}, "files.missing"),
        ({"path": "link.py", "line": 1, "text": "secret"}, "files.missing"),
        ({"path": "out/outside.py", "line": 1, "text": "secret"}, "files.missing"),
        ({"path": "inner/b.txt", "line": 1, "text": "x" * 10}, "files.wrong_text"),
        ({"path": "a.py", "size_bytes": 1}, "files.wrong_size_bytes"),
        ({"path": "a.py", "line_count": 4}, "files.wrong_line_count"),
        ({"path": "a.py", "sha256": "0" * 64}, "files.wrong_sha256"),
        ({"path": "a.py", "problem": "missing"}, "files.wrong_problem"),
        ({"path": "absent.py", "problem": "denied"}, "files.wrong_problem"),
    ],
)
def test_false_claims_fail_with_the_place(root: Path, claim: dict[str, Any], code: str) -> None:
    verdict = judge(root, {"list": [claim]})
    assert verdict.result is Result.FAIL
    assert verdict.reasons[0].code == code
    assert verdict.reasons[0].where.startswith("/list/0/")


def test_a_pipe_is_looked_at_and_not_opened(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(Unreadable, match="a pipe") as caught:
        read_bytes(str(root), "pipe")
    assert caught.value.code == "not_regular"


def test_lines_end_where_python_ends_them(root: Path) -> None:
    (root / "lines.txt").write_bytes("one\rtwo\r\nthree\x0b\x0c\x1c\x85\u2028still\n\nfive".encode())
    texts = ["one", "two", "three\x0b\x0c\x1c\x85\u2028still", "", "five"]
    claims = [{"path": "lines.txt", "line": number, "text": text} for number, text in enumerate(texts, start=1)]
    verdict = judge(root, [*claims, {"path": "lines.txt", "line_count": 5}])
    assert verdict.result is Result.PASS, verdict.reasons


def test_an_absolute_path_is_never_inside(root: Path) -> None:
    verdict = judge(root, {"path": str(root / "a.py"), "line": 1, "text": "first"})
    assert verdict.reasons[0].code == "files.missing"


def test_the_expected_text_is_told(root: Path) -> None:
    reason = judge(root, {"path": "a.py", "line": 3, "text": "thrid"}).reasons[0]
    assert (reason.where, reason.expected) == ("/text", "third")


def test_every_file_of_the_input_must_be_accounted_for(root: Path) -> None:
    assert judge(root, {"path": "a.py"}, files=["a.py"]).result is Result.PASS
    reasons = judge(root, {"path": "a.py"}, files=["a.py", "inner/b.txt"]).reasons
    assert [(reason.code, reason.expected) for reason in reasons] == [("files.uncovered", "inner/b.txt")]


@pytest.mark.parametrize("given", [None, {}, {"root": 3}, {"root": "/no/such/folder"}, {"root": __file__}])
def test_without_a_root_it_abstains(given: Any) -> None:
    subject = Subject(agent="a", output={"path": "a.py"}, input=given)
    assert run_gates(["files"], subject)[-1].result is Result.ABSTAIN


def test_problems_of_hostile_files_are_checked(tmp_path: Path) -> None:
    folder = tmp_path / "hostile"
    expected = hostile.generate(folder)
    try:
        told = [{"path": spell(path), "problem": problem} for path, problem in expected.items() if problem]
        wrong = judge(folder, told).reasons
        assert [(told[int(reason.where.split("/")[1])], reason.expected) for reason in wrong] == []
        read = [{"path": spell(path), "problem": "syntax"} for path, problem in expected.items() if problem is None]
        assert len(judge(folder, read).reasons) == len(read)
    finally:
        hostile.open_up(folder)


@pytest.mark.parametrize("path", ["a/b.py", "new\nline", "back\\slash", "\\x41", "\udcff\udce9", "tab\t", "é", "\x7f"])
def test_spelling_is_reversible_and_is_json(path: str) -> None:
    spelled = spell(path)
    assert unspell(spelled) == path
    assert spelled.isprintable()
    spelled.encode()


@pytest.mark.parametrize("spelled", ["\\x41", "\\xfg", "\\", "a\nb", "\\x5c"])
def test_other_spellings_of_a_path_are_refused(spelled: str) -> None:
    with pytest.raises(ValueError, match="spell"):
        unspell(spelled)
