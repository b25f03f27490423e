"""The figures for people: one line when a row is over, the tables at the end; plain in a pipe."""

from typing import Any

from rich.console import Console
from rich.markup import escape

from tests.benchmarks.sheet import Sheet
from tests.faults.ablations import ABLATIONS
from tests.faults.result import Result, percentile


def print_row(console: Console, result: Result) -> None:
    name = f"{result.name}{f' without the {result.ablation}' if result.ablation else ''}"
    if result.skipped is not None:
        console.print(f"[yellow]-[/] {name:<12} skipped: {escape(result.skipped)}", highlight=False)
        return
    mark = "[green]ok[/]" if result.fine else "[red]NO[/]"
    injected = ", ".join(f"{count} {what}" for what, count in result.injected.items())
    tally = result.tally
    recovery = _recovery(tally.recoveries_seen, "seen") + _recovery(tally.recoveries_unseen, "unseen")
    console.print(
        f"{mark} {name:<12} {result.seconds:3.0f} s, seed {result.seed}: {injected or 'nothing injected'}; "
        f"{tally.tasks} tasks, {tally.commits} commits{recovery}{_facts(result)}",
        highlight=False,
        soft_wrap=True,
    )
    if not result.held:
        for problem in result.problems:
            console.print(f"     {escape(problem)}", highlight=False, soft_wrap=True)


def print_report(console: Console, document: dict[str, Any]) -> None:
    sheets = [rows_sheet(document), ablations_sheet(document), totals_sheet(document)]
    for sheet in sheets:
        if sheet.rows:
            console.print(sheet.rich()) if console.is_terminal else console.print(
                sheet.markdown(), highlight=False, markup=False, soft_wrap=True
            )


def rows_sheet(document: dict[str, Any]) -> Sheet:
    columns = ("row", "fault", "injected", "must hold", "held", "tasks", "commits", "bodies twice", "recovery s")
    sheet = Sheet("Rows", columns, names=5)
    sheet.note = "Recovery: p50 / p99 (number), from kill -9 until an interrupted step runs again. s seen, u unseen."
    for row in document["rows"]:
        if row["ablation"] is None:
            sheet.add(*_cells(row))
    return sheet


def ablations_sheet(document: dict[str, Any]) -> Sheet:
    columns = ("row", "guard off", "injected", "fails, as it must", "what broke")
    sheet = Sheet("Ablation: with a guard off the same row must fail", columns, names=5)
    for row in document["rows"]:
        if row["ablation"] is not None:
            broke = "; ".join(row["problems"][:4]) or "nothing"
            sheet.add(
                row["name"],
                ABLATIONS[row["ablation"]].text,
                _injected(row),
                "no" if row["held"] else "yes",
                broke[:400],
            )
    return sheet


def totals_sheet(document: dict[str, Any]) -> Sheet:
    sheet = Sheet("Together, without the rows with a guard off", ("what", "count", "of", "95 % bound"), names=1)
    sheet.note = "The bound of a zero is 3/N: with 95 % confidence the true rate is below it."
    for name, (count, of, what) in document["totals"].items():
        bound = f"< {3 / of:.2g}" if of and count == 0 else ""
        sheet.add(name, f"{count:,}", f"{of:,} {what}" if of else "", bound)
    return sheet


def _cells(row: dict[str, Any]) -> list[str]:
    if row["skipped"] is not None:
        return [row["name"], row["fault"], f"skipped: {row['skipped']}", row["holds"], "-", "", "", "", ""]
    tally = row["tally"]
    times = [("s", tally["recoveries_seen"]), ("u", tally["recoveries_unseen"])]
    recovery = ", ".join(
        f"{mark} {percentile(each, 0.5):.2f} / {percentile(each, 0.99):.2f} ({len(each)})"
        for mark, each in times
        if each
    )
    facts = "".join(f"; {name}: {value}" for name, value in row["facts"].items())
    held = ("yes" if row["held"] else "NO: " + "; ".join(row["problems"][:3])) + facts
    return [
        row["name"],
        row["fault"],
        _injected(row),
        row["holds"],
        held,
        f"{tally['tasks']:,}",
        f"{tally['commits']:,}",
        f"{tally['bodies_twice']:,}",
        recovery,
    ]


def _injected(row: dict[str, Any]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in row["injected"].items())


def _facts(result: Result) -> str:
    return "".join(f"; {name} {value}" for name, value in result.facts.items())


def _recovery(times: list[float], what: str) -> str:
    if not times:
        return ""
    return f"; {what}: p50 {percentile(times, 0.5):.2f} s, p99 {percentile(times, 0.99):.2f} s of {len(times)}"
