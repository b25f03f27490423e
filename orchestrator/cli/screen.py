"""The picture `top` shows: one overview as tables, fitted to the terminal's width and height."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.cli import output
from orchestrator.cli.steering import name_of
from shared_state.shapes import Overview, Worker

WIDE = 110
"""From so many columns on there are two side by side."""
_BAR = 10
_LONG_SECONDS = 300.0


@dataclass(frozen=True)
class Look:
    """One overview, when it was asked for (monotonic), how long the answer took, and how long after the one before."""

    url: str
    overview: Overview
    at: float
    answer_seconds: float
    after_seconds: float | None
    trouble: str = ""

    def without_answer(self, text: str) -> "Look":
        """The same, old; the service did not answer."""
        return replace(self, trouble=text)


@dataclass(frozen=True)
class Section:
    """A titled table: columns as (heading, justify), rows as cells. `least` rows are shown before others get more."""

    title: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Text]]
    nothing: str
    least: int = 2

    def lines(self, rows: int) -> int:
        return 2 + max(1, rows) if self.rows else 2

    def draw(self, rows: int, width: int) -> RenderableType:
        title = Text(self.title, style="bold cyan")
        title.append(
            " " + "\N{BOX DRAWINGS LIGHT HORIZONTAL}" * max(0, width - len(self.title) - 1), style="bright_black"
        )
        if not self.rows:
            return Group(title, Text(f"  {self.nothing}", style="bright_black"))
        table = Table(box=None, pad_edge=False, header_style="bright_black", expand=True, padding=(0, 1, 0, 0))
        for number, (heading, justify) in enumerate(self.columns):
            last = number == len(self.columns) - 1
            table.add_column(
                heading, justify="right" if justify == "right" else "left", no_wrap=True, overflow="ellipsis",
                ratio=1 if last and justify == "left" else None,
            )  # fmt: skip
        shown = self.rows[:rows]
        for cells in shown:
            table.add_row(*cells)
        if len(self.rows) > len(shown):
            title.truncate(max(0, width - 12))
            title.append(f" {len(self.rows) - len(shown)} more", style="bright_black")
        return Group(title, table)


def draw(look: Look, width: int, height: int | None) -> RenderableType:
    """`height` null: as long as it is."""
    left = [_queues(look), _limits(look), _pauses(look)]
    right = [_workers(look), _oldest(look), _letters(look)]
    head = _head(look, width)
    room = None if height is None else height - 3
    if width < WIDE:
        order = [left[0], right[0], right[1], right[2], left[2], left[1]]
        return Group(head, Text(), *_fitted(order, width, room))
    half = (width - 3) // 2
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(width=half)
    grid.add_column(width=half)
    grid.add_row(Group(*_fitted(left, half, room)), Group(*_fitted(right, half, room)))
    return Group(head, Text(), grid)


def _fitted(sections: Sequence[Section], width: int, room: int | None) -> list[RenderableType]:
    """Each section with as many of its rows as there is room for: first the least of each, then a line between two,
    then the rest in order."""
    counts = [len(section.rows) for section in sections]
    airy = True
    if room is not None:
        counts = [min(len(section.rows), section.least) for section in sections]
        spare = room - sum(section.lines(count) for section, count in zip(sections, counts, strict=True))
        airy = spare >= len(sections) - 1
        spare -= len(sections) - 1 if airy else 0
        for index, section in enumerate(sections):
            more = max(0, min(spare, len(section.rows) - counts[index]))
            counts[index] += more
            spare -= more
    drawn: list[RenderableType] = []
    for section, count in zip(sections, counts, strict=True):
        drawn += [*([Text()] if drawn and airy else []), section.draw(count, width)]
    return drawn


def _head(look: Look, width: int) -> Text:
    tasks = look.overview["tasks"]
    told = "  ".join(f"{count} {state}" for state, count in sorted(tasks.items())) or "none open"
    head = Text(no_wrap=True, overflow="ellipsis")
    head.append(" orchestrator ", style="bold reverse")
    head.append(f" {look.overview['at'][11:19]}", style="bold")
    head.append(f"  tasks: {told}")
    if look.trouble:
        head.append(f"  {output.clean(look.trouble)}", style="bold red")
    else:
        head.append(f"  {look.url}", style="bright_black")
    head.truncate(width)
    return head


def _queues(look: Look) -> Section:
    moves = {each["queue"]: each for each in look.overview["moves"] or ()}
    seconds = look.after_seconds or 0.0
    rows = []
    for queue in look.overview["queues"]:
        moved = moves.get(queue["queue"], {"begun": 0, "failed": 0})
        ready = queue["waiting"] + queue["published"]
        rows.append(
            [
                _text(queue["queue"], "" if queue["worker_count"] else "red"),
                _number(ready, "blue"),
                _number(queue["running"], "green"),
                _number(queue["paused"] + queue["limited"], "yellow"),
                _age(queue["oldest_seconds"]),
                _rate(moved["begun"], seconds, "green"),
                _rate(moved["failed"], seconds, "red"),
                _number(queue["worker_count"], "", none="none", none_style="red"),
            ]
        )
    columns = ("READY", "RUNNING", "HELD", "OLDEST", "BEGUN/s", "FAILED/s", "WORKERS")
    heads = [("QUEUE", "left"), *((name, "right") for name in columns)]
    return Section("Queues", heads, rows, "no queues", least=3)


def _workers(look: Look) -> Section:
    rows = [
        [
            _text(worker["name"]),
            _text(
                worker["state"], output.COLOURS.get(worker["state"], "") if worker["state"] != "running" else "green"
            ),
            _bar(worker),
            _text(f"{worker['busy']}/{worker['slots']}"),
            _text(_queues_of(worker["queues"]), "bright_black"),
        ]
        for worker in look.overview["workers"]
    ]
    heads = [("WORKER", "left"), ("STATE", "left"), ("BUSY", "left"), ("", "right"), ("QUEUES", "left")]
    return Section("Workers", heads, rows, "no worker runs")


def _oldest(look: Look) -> Section:
    now = datetime.fromisoformat(look.overview["at"])
    rows = [
        [
            _age((now - datetime.fromisoformat(step["since"])).total_seconds()),
            _text(step["state"], output.COLOURS.get(step["state"], "")),
            _text(f"{step['team']}/{step['agent']}"),
            _text(step["key"]),
            _text(step["task_id"], "bright_black"),
        ]
        for step in look.overview["oldest"]
    ]
    heads = [("AGE", "right"), ("STATE", "left"), ("AGENT", "left"), ("STEP", "left"), ("TASK", "left")]
    return Section("Oldest work", heads, rows, "nothing runs or waits", least=2)


def _letters(look: Look) -> Section:
    rows = [
        [_number(letter["count"], "red"), _text(letter["reason"], "red"), _text(letter["meaning"], "bright_black")]
        for letter in look.overview["dead_letters"]
    ]
    heads = [("OPEN", "right"), ("REASON", "left"), ("", "left")]
    return Section("Dead letters", heads, rows, "none open", least=1)


def _pauses(look: Look) -> Section:
    rows = [
        [
            _text(name_of(pause), "yellow"),
            _number(pause["held"], "yellow"),
            _text(pause["paused_by"]),
            _text(pause["paused_at"][11:19]),
            _text(pause["reason"], "bright_black"),
        ]
        for pause in look.overview["pauses"]
    ]
    heads = [("WHAT", "left"), ("HELD", "right"), ("BY", "left"), ("SINCE", "left"), ("REASON", "left")]
    return Section("Paused", heads, rows, "nothing is paused", least=1)


def _limits(look: Look) -> Section:
    rows = [
        [
            _text(f"{limit['team']}/{limit['agent']}"),
            Text(f"{limit['running']}/{limit['concurrency']}", _full(limit["running"], limit["concurrency"])),
            _number(limit["held"], "yellow"),
        ]
        for limit in look.overview["limits"]
    ]
    return Section(
        "Limits", [("AGENT", "left"), ("RUNNING", "right"), ("WAITING", "right")], rows, "no agent is limited", 1
    )


def _bar(worker: Worker) -> Text:
    share = min(1.0, worker["busy"] / max(1, worker["slots"]))
    filled = round(share * _BAR) or (1 if worker["busy"] else 0)
    bar = Text("\N{BLACK VERTICAL RECTANGLE}" * filled, style=_full(worker["busy"], worker["slots"]))
    bar.append("\N{MIDDLE DOT}" * (_BAR - filled), style="bright_black")
    return bar


def _full(part: int, whole: int) -> str:
    return "red" if part >= whole else "yellow" if part * 4 >= whole * 3 else "green"


def _queues_of(names: Sequence[str]) -> str:
    return ",".join(names)


def _text(text: str, style: str = "") -> Text:
    return Text(output.clean(" ".join(text.split())), style=style)


def _number(count: int, style: str, *, none: str = "0", none_style: str = "bright_black") -> Text:
    return Text(f"{count:,}", style) if count else Text(none, none_style)


def _rate(count: int, seconds: float, style: str) -> Text:
    if not count or not seconds:
        return Text("0" if seconds else "-", "bright_black")
    per_second = count / seconds
    return Text(f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.1f}", style)


def _age(seconds: float | None) -> Text:
    if seconds is None:
        return Text("-", "bright_black")
    style = "red" if seconds > _LONG_SECONDS else ""
    if seconds < 60:
        return Text(f"{seconds:.0f}s", style)
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return Text(f"{minutes}m{rest:02}s", style)
    hours, minutes = divmod(minutes, 60)
    return Text(f"{hours}h{minutes:02}m" if hours < 48 else f"{hours // 24}d{hours % 24}h", style)
