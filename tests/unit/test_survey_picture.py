"""The picture of the module graph: readable for 40 modules, valid for 2,000."""

import random
import xml.dom.minidom

import pytest

from workers.teams.survey.graph import Graph
from workers.teams.survey.layout import lay_out
from workers.teams.survey.picture import EDGES_LIMIT, NODES_LIMIT, ROW_LIMIT, collapse, draw
from workers.teams.survey.shapes import Edge


def graph(count: int, packages: int, edges: int) -> Graph:
    dice = random.Random(count)
    modules = {f"p{index % packages}/m{index}.py": f"p{index % packages}.m{index}" for index in range(count)}
    paths = list(modules)
    made = [Edge(path=dice.choice(paths), line=1, text="", target=dice.choice(paths)) for _ in range(edges)]
    return Graph(modules, made, [])


@pytest.mark.parametrize(
    ("count", "packages", "edges"), [(0, 1, 0), (1, 1, 0), (40, 4, 120), (2000, 20, 9000), (2000, 500, 9000)]
)
def test_a_graph_of_any_size_is_a_valid_picture(count: int, packages: int, edges: int) -> None:
    made = graph(count, packages, edges)
    document = xml.dom.minidom.parseString(draw(made, []))
    nodes = [each for each in document.getElementsByTagName("g") if each.getAttribute("class") == "node"]
    assert len(nodes) <= NODES_LIMIT
    assert len(nodes) == count if count <= NODES_LIMIT else len(nodes) > 10
    assert f"{count:,} modules" in document.documentElement.getAttribute("aria-label")


def test_every_module_is_in_one_box() -> None:
    nodes, _ = collapse(graph(2000, 500, 9000), [])
    assert sum(node.module_count for node in nodes.values()) == 2000


def test_importers_stand_above_what_they_import_and_rows_are_bounded() -> None:
    dice = random.Random(7)
    nodes = [f"n{index}" for index in range(60)]
    layout = lay_out(nodes, [(dice.choice(nodes), dice.choice(nodes)) for _ in range(200)], ROW_LIMIT, EDGES_LIMIT)
    row_of = {node: index for index, row in enumerate(layout.rows) for node in row}
    assert sorted(row_of) == sorted(nodes)
    assert max(map(len, layout.rows)) <= ROW_LIMIT
    assert all(row_of[source] < row_of[target] for source, target in layout.forward)
    assert layout.backward


def test_only_implied_edges_are_left_out() -> None:
    chain = [("a", "b"), ("b", "c"), ("a", "c")]
    assert lay_out("abc", chain, 8, 2).forward == [("b", "c"), ("a", "b")]
    assert lay_out("abc", chain, 8, 2).implied_count == 1
    assert lay_out("abc", chain, 8, 3).implied_count == 0
