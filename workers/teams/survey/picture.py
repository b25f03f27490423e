"""Draws the module graph as an SVG that stands by itself."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from workers.teams.survey.graph import Graph
from workers.teams.survey.layout import Layout, lay_out
from workers.teams.survey.shapes import Reading

NODES_LIMIT = 60
ROW_LIMIT = 8
EDGES_LIMIT = 90
"""With more edges than this, those that a longer way implies are left out, and the caption says so."""

_COLOURS = ("#4c6a92", "#8a5a83", "#5b8c5a", "#b0703c", "#3f8f8b", "#a34d55", "#7a7a3a", "#6b5b95")
_BOX_HEIGHT, _GAP, _ROW_HEIGHT, _MARGIN = 40, 22, 104, 28
_STYLE = (
    "text{font:13px ui-sans-serif,system-ui,sans-serif;fill:#fff}"
    ".small{font-size:10px;opacity:.85}.caption{fill:#667;font-size:12px}"
    ".edge{fill:none;stroke:#8892a0;stroke-width:1.1;opacity:.55}"
    ".back{stroke:#c0392b;stroke-dasharray:4 3}.box{rx:7}"
    "g.node:hover .box{stroke:#222;stroke-width:2}"
)


@dataclass(frozen=True)
class Node:
    """One box: a module, or all modules under one dotted name."""

    name: str
    module_count: int
    line_count: int


@dataclass(frozen=True)
class _Box:
    x: float
    y: float
    width: float

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


def draw(graph: Graph, files: list[Reading]) -> str:
    nodes, edges = collapse(graph, files)
    layout = lay_out(sorted(nodes), edges, ROW_LIMIT, EDGES_LIMIT)
    boxes, width, height = _place(layout, nodes)
    parts = [_edge(boxes[source], boxes[target], back=False) for source, target in layout.forward]
    parts += [_edge(boxes[source], boxes[target], back=True) for source, target in layout.backward]
    colours = _colours(nodes)
    parts += [_node(nodes[name], boxes[name], colours[name.partition(".")[0]]) for row in layout.rows for name in row]
    caption = _caption(graph, nodes, layout)
    parts.append(f'<text class="caption" x="{_MARGIN}" y="{height - 12:.0f}">{_text(caption)}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{_text(caption)}"><style>{_STYLE}</style>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def collapse(graph: Graph, files: list[Reading]) -> tuple[dict[str, Node], Counter[tuple[str, str]]]:
    """At most `NODES_LIMIT` boxes: the modules, or the packages they lie in, or the busiest of these and a rest."""
    box_of = _open_boxes(graph.modules)
    edges = Counter((box_of[edge.path], box_of[edge.target]) for edge in graph.edges)
    if len(set(box_of.values())) > NODES_LIMIT:
        box_of = _merge_quiet(box_of, edges)
        edges = Counter((box_of[edge.path], box_of[edge.target]) for edge in graph.edges)
    counts = Counter(box_of.values())
    lines: Counter[str] = Counter()
    for each in files:
        if each.path in box_of:
            lines[box_of[each.path]] += each.line_count or 0
    return {name: Node(name, count, lines[name]) for name, count in counts.items()}, edges


def _open_boxes(modules: Mapping[str, str]) -> dict[str, str]:
    """The box of each path: top packages first, then the one with most modules is opened while there is room."""
    box_of = {path: _cut(name, 1) for path, name in modules.items()}
    closed = set(box_of.values())
    while closed:
        counts = Counter(box_of.values())
        box = min(closed, key=lambda each: (-counts[each], each))
        closed.discard(box)
        inner = {path: _cut(modules[path], box.count(".") + 2) for path, held in box_of.items() if held == box}
        opened = set(inner.values()) - {box}
        if opened and len(counts | Counter(opened)) <= NODES_LIMIT:
            box_of |= inner
            closed |= opened
    return box_of


def _cut(name: str, depth: int) -> str:
    return ".".join(name.split(".")[:depth])


def _merge_quiet(box_of: dict[str, str], edges: Counter[tuple[str, str]]) -> dict[str, str]:
    """Keep the boxes with most connections to others; the rest becomes one."""
    degree = Counter(dict.fromkeys(box_of.values(), 0))
    for source, target in edges:
        if source != target:
            degree[source] += 1
            degree[target] += 1
    busiest = {name for name, _ in sorted(degree.items(), key=lambda item: (-item[1], item[0]))[: NODES_LIMIT - 1]}
    return {path: name if name in busiest else "others" for path, name in box_of.items()}


def _place(layout: Layout, nodes: dict[str, Node]) -> tuple[dict[str, _Box], float, float]:
    widths = {name: 26 + max(7.6 * len(_label(name)), 5.8 * len(_size(node)), 70.0) for name, node in nodes.items()}
    row_widths = [sum(widths[name] for name in row) + _GAP * (len(row) - 1) for row in layout.rows]
    width = max([*row_widths, 480.0]) + 2 * _MARGIN
    boxes = {}
    for index, row in enumerate(layout.rows):
        x = (width - row_widths[index]) / 2
        for name in row:
            boxes[name] = _Box(x, _MARGIN + index * _ROW_HEIGHT, widths[name])
            x += widths[name] + _GAP
    return boxes, width, _MARGIN + len(layout.rows) * _ROW_HEIGHT


def _edge(source: _Box, target: _Box, *, back: bool) -> str:
    start = source.y if back else source.y + _BOX_HEIGHT
    end = target.y + _BOX_HEIGHT if back else target.y
    bend = max(30.0, abs(end - start) / 2) * (-1 if back else 1)
    kind = "edge back" if back else "edge"
    return (
        f'<path class="{kind}" d="M{source.middle:.0f} {start:.0f}C{source.middle:.0f} {start + bend:.0f} '
        f'{target.middle:.0f} {end - bend:.0f} {target.middle:.0f} {end:.0f}"/>'
    )


def _node(node: Node, box: _Box, colour: str) -> str:
    return (
        f'<g class="node"><title>{_text(node.name)}: {_size(node)}</title>'
        f'<rect class="box" x="{box.x:.0f}" y="{box.y:.0f}" width="{box.width:.0f}" height="{_BOX_HEIGHT}" rx="7" '
        f'fill="{colour}"/><text x="{box.middle:.0f}" y="{box.y + 17:.0f}" text-anchor="middle">'
        f'{_text(_label(node.name))}</text><text class="small" x="{box.middle:.0f}" y="{box.y + 31:.0f}" '
        f'text-anchor="middle">{_size(node)}</text></g>'
    )


def _size(node: Node) -> str:
    modules = f"{node.module_count} modules, " if node.module_count > 1 else ""
    return f"{modules}{node.line_count:,} lines"


def _label(name: str) -> str:
    """The last two parts of a dotted name, at most 28 characters: the title has the whole."""
    short = ".".join(name.split(".")[-2:])
    return short if len(short) <= 28 else "…" + short[-27:]


def _colours(nodes: dict[str, Node]) -> dict[str, str]:
    tops = sorted({name.partition(".")[0] for name in nodes})
    return {top: _COLOURS[index % len(_COLOURS)] for index, top in enumerate(tops)}


def _caption(graph: Graph, nodes: dict[str, Node], layout: Layout) -> str:
    parts = [f"{len(graph.modules):,} modules, {len(graph.edges):,} imports between them"]
    if len(nodes) < len(graph.modules):
        parts.append(f"drawn as {len(nodes)} groups")
    if layout.backward:
        parts.append(f"{len(layout.backward)} dashed lines close circles")
    if layout.implied_count:
        parts.append(f"{layout.implied_count} lines that longer ways imply are not drawn")
    return "; ".join(parts) + "."


def _text(text: str) -> str:
    """Escaped, without the characters that XML cannot hold."""
    return escape("".join(each if each.isprintable() else "\ufffd" for each in text))
