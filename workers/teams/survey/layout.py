"""Places the nodes of a directed graph in rows, importers above what they import."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Pair = tuple[str, str]


@dataclass(frozen=True)
class Layout:
    """`rows` from the top; `forward` edges lead down, `backward` ones close a circle. `implied_count` forward edges
    are left out because a longer way says the same."""

    rows: list[list[str]]
    forward: list[Pair]
    backward: list[Pair]
    implied_count: int


def lay_out(nodes: Sequence[str], edges: Iterable[Pair], row_limit: int, edges_limit: int) -> Layout:
    """Layered drawing after Sugiyama: break circles (Eades, Lin and Smyth, 1993), fill rows of bounded width (Coffman
    and Graham, 1972), order each row by the mean place of its neighbours."""
    pairs = sorted({(source, target) for source, target in edges if source != target})
    place = {node: index for index, node in enumerate(_line_up(nodes, pairs))}
    forward = [pair for pair in pairs if place[pair[0]] < place[pair[1]]]
    backward = [pair for pair in pairs if place[pair[0]] > place[pair[1]]]
    rows = _fill_rows(sorted(nodes, key=place.__getitem__), forward, row_limit)
    drawn = _without_implied(forward, place) if len(forward) > edges_limit else forward
    return Layout(_order_rows(rows, pairs), drawn, backward, len(forward) - len(drawn))


def _line_up(nodes: Sequence[str], pairs: Sequence[Pair]) -> list[str]:
    """All nodes in one line with few edges leading back: sinks last, sources first, else most outgoing first."""
    after: dict[str, set[str]] = {node: set() for node in nodes}
    before: dict[str, set[str]] = {node: set() for node in nodes}
    for source, target in pairs:
        after[source].add(target)
        before[target].add(source)
    left = dict.fromkeys(nodes)
    head: list[str] = []
    tail: list[str] = []
    while left:
        sink = next((node for node in left if not after[node]), None)
        origin = None if sink is not None else next((node for node in left if not before[node]), None)
        chosen = sink or origin or max(left, key=lambda each: len(after[each]) - len(before[each]))
        (tail if sink is not None else head).append(chosen)
        del left[chosen]
        for target in after[chosen]:
            before[target].discard(chosen)
        for source in before[chosen]:
            after[source].discard(chosen)
    return head + tail[::-1]


def _fill_rows(ordered: Sequence[str], forward: Iterable[Pair], row_limit: int) -> list[list[str]]:
    """From the bottom: every node one row above the highest it leads to, or higher where that row is full."""
    targets: dict[str, list[str]] = defaultdict(list)
    for source, target in forward:
        targets[source].append(target)
    row_of: dict[str, int] = {}
    counts: dict[int, int] = defaultdict(int)
    for node in reversed(ordered):
        row = max((row_of[target] + 1 for target in targets[node]), default=0)
        while counts[row] >= row_limit:
            row += 1
        row_of[node] = row
        counts[row] += 1
    rows: list[list[str]] = [[] for _ in range(max(row_of.values(), default=-1) + 1)]
    for node, row in row_of.items():
        rows[len(rows) - 1 - row].append(node)
    return [row for row in rows if row]


def _order_rows(rows: list[list[str]], pairs: Sequence[Pair]) -> list[list[str]]:
    neighbours: dict[str, list[str]] = defaultdict(list)
    for source, target in pairs:
        neighbours[source].append(target)
        neighbours[target].append(source)
    place: dict[str, float] = {}
    for row in rows:
        place.update(_spread(row))
    for sweep in range(8):
        for row in rows if sweep % 2 else reversed(rows):
            row.sort(key=lambda node: _mean([place[each] for each in neighbours[node]], place[node]))
            place.update(_spread(row))
    return rows


def _spread(row: Sequence[str]) -> Mapping[str, float]:
    return {node: index - (len(row) - 1) / 2 for index, node in enumerate(row)}


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _without_implied(forward: Sequence[Pair], place: Mapping[str, int]) -> list[Pair]:
    """The transitive reduction of an acyclic graph."""
    targets: dict[str, list[str]] = defaultdict(list)
    for source, target in forward:
        targets[source].append(target)
    reach: dict[str, set[str]] = {}
    kept: list[Pair] = []
    for source in sorted(place, key=place.__getitem__, reverse=True):
        seen: set[str] = set()
        for target in sorted(targets[source], key=place.__getitem__):
            if target not in seen:
                kept.append((source, target))
                seen |= {target} | reach[target]
        reach[source] = seen
    return kept
