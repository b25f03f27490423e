"""What the fault harness counts with: were it blind, every row would hold."""

import json
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.__main__ import plan_times
from tests.faults.ablations import ABLATIONS
from tests.faults.document import fill, make_document, totals
from tests.faults.ledger import Ledger
from tests.faults.proxy import Proxy
from tests.faults.result import Result, percentile
from tests.faults.rows import all_rows, chosen
from tests.faults.run import seed_of
from tests.faults.soak import FAULTS, slope
from tests.faults.tally import Tally


def test_a_ledger_knows_what_was_seen(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    lines = [
        {"what": "began", "task": "t", "step": "draft0", "attempt": 1, "at": 1.0, "nonce": "a", "saw": {}},
        {"what": "ticks", "task": "t", "step": "draft0", "attempt": 1, "at": 3.0},
        {"what": "began", "task": "t", "step": "draft0", "attempt": 2, "at": 4.0, "nonce": "b", "saw": {}},
        {"what": "began", "task": "t", "step": "join", "attempt": 1, "at": 5.0, "nonce": "c", "saw": {"draft0": "a"}},
        {"what": "reviewed", "task": "t", "step": "draft0", "attempt": 2, "at": 6.0, "nonce": "b"},
        {"what": "began", "task": "t", "step": "join", "attempt": 2, "at": 7.0, "nonce": "d", "saw": {"draft0": "b"}},
    ]
    ledger.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert ledger.bodies() == {("t", "draft0"): 2, ("t", "join"): 2}
    assert ledger.seen() == {("t", "draft0"): {"a", "b"}}, "two outputs of one step: a double commit"
    assert ledger.released_unreviewed() == {("t", "draft0")}
    assert ledger.body_seconds("draft0") == [2.0, 0.0]
    assert ledger.last_ticks()["t", "draft0", 1] == 3.0


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_percentiles_are_values_that_occurred(share: float, expected: int) -> None:
    assert percentile(list(range(1, 101)), share) == expected
    assert percentile([], share) is None


def test_a_row_with_a_guard_off_must_fail() -> None:
    whole = Result("F01", "", "", 1)
    ablated = Result("F01", "", "", 1, ablation="fence")
    assert whole.fine
    assert not ablated.fine
    for each in (whole, ablated):
        each.problems.append("1 tasks never ended")
    assert not whole.fine
    assert ablated.fine
    ablated.broken = True
    assert not ablated.fine, "a row that did not run proves nothing"


def test_totals_leave_nothing_out() -> None:
    results = [
        Result("F01", "", "", 1, injected={"worker kills": 3}, tally=Tally(tasks=5, lost=1, commits=20)),
        Result(
            "F11", "", "", 1, injected={"broker wipes": 2, "worker kills": 1}, tally=Tally(tasks=2, zombie_commits=1)
        ),
    ]
    counted = totals(results)
    assert counted["worker kills"][0] == 4
    assert counted["lost tasks"][:2] == (1, 7)
    assert counted["zombie commits"][0] == 1


def test_figures_go_into_their_places(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    marks = "".join(f"<!-- {name}: by make faults -->\nold\n<!-- end -->\n" for name in ("totals", "rows", "ablation"))
    page.write_text(marks)
    skipped = Result("F36", "clock", "held", 1, skipped="not permitted | here")
    fill(page, make_document([skipped], seed=7, began=0.0, scope="some rows only"))
    text = page.read_text()
    assert "skipped: not permitted \\| here" in text
    assert "(some rows only), seed 7" in text
    assert text.count("\nold\n") == 1, "nothing was measured with a guard off: that place stays"
    page.write_text("no places")
    with pytest.raises(ValueError, match="0 places"):
        fill(page, make_document([skipped], seed=7, began=0.0, scope="some rows only"))


def test_rows_have_names_of_their_own_and_known_guards() -> None:
    rows = all_rows()
    assert len({(row.name, row.ablation) for row in rows}) == len(rows)
    assert {row.ablation for row in rows if row.ablation} == set(ABLATIONS)
    assert set(FAULTS) <= {row.name for row in rows}
    assert {row.name for row in chosen(["F01"])} == {"F01", "F01-unseen"}
    with pytest.raises(KeyError):
        chosen(["F0"])
    assert seed_of(1, rows[0]) != seed_of(2, rows[0])


def test_times_are_shared_out_but_never_too_short() -> None:
    rows = all_rows()
    assert [seconds for _, seconds in plan_times(rows, None, None)] == [max(row.seconds, row.shortest) for row in rows]
    assert all(seconds >= row.shortest for row, seconds in plan_times(rows, 1.0, None))


def test_a_slope_is_per_cent_an_hour() -> None:
    level = [(float(at), 100.0) for at in range(0, 7200, 60)]
    rising = [(float(at), 100.0 + at / 3600) for at in range(0, 7200, 60)]
    assert slope(level) == pytest.approx(0.0)
    assert slope(rising) == pytest.approx(1.0, abs=0.02)


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets; its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=_echo, args=(connection,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    made = Proxy("127.0.0.1", echo, random.Random(1))
    yield made
    made.close()


def test_a_proxy_passes_cuts_holds_and_refuses(proxy: Proxy) -> None:
    assert ask(proxy, b"hello") == b"hello"
    with dial(proxy) as client:
        proxy.hold()
        client.sendall(b"later")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(10)
        client.settimeout(5)
        proxy.release()
        assert client.recv(10) == b"later"
        assert proxy.cut() >= 1
        assert client.recv(10) == b""
    proxy.refuse()
    with pytest.raises(OSError, match="refused"):
        dial(proxy)
    proxy.heal()
    assert ask(proxy, b"again") == b"again"


def test_a_proxy_forgets_what_says_that_it_was_committed(proxy: Proxy) -> None:
    proxy.lose_share = 1.0
    assert ask(proxy, b"SELECT\x00") == b"SELECT\x00"
    assert ask(proxy, b"C\x00\x00\x00\x0bCOMMIT\x00") == b""
    assert proxy.lost_replies == 1


def dial(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def ask(proxy: Proxy, data: bytes) -> bytes:
    with dial(proxy) as client:
        client.sendall(data)
        return client.recv(100)


def _echo(connection: Any) -> None:
    with connection:
        while data := connection.recv(100):
            connection.sendall(data)
