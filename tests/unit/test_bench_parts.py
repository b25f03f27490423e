"""What the benchmarks count with, on traffic that is known."""

import re
import socket
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.benchmarks.chart import Chart
from tests.benchmarks.figures import Figures
from tests.benchmarks.flames import IMAGES, entitle
from tests.benchmarks.sheet import Sheet
from tests.benchmarks.sockets import Traffic, read_connections, traffic_between


def test_round_trips_and_bytes_are_the_kernels() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            server, _ = listener.accept()
            with server:
                first = read_connections(port)
                for _ in range(5):
                    client.sendall(b"x" * 100)
                    assert len(server.recv(1000)) == 100
                    server.sendall(b"y" * 30)
                    assert len(client.recv(1000)) == 30
                own = client.getsockname()[1]
                last = read_connections(port)
    traffic = traffic_between(first, last, frozenset())
    assert (traffic.bytes_received, traffic.round_trips) == (500, 5)
    # What the client has not acknowledged yet is not counted as sent yet.
    assert traffic.bytes_sent in (120, 150)
    assert traffic_between(first, last, {own}) == Traffic()


def test_ratios_are_medians_of_rounds() -> None:
    rows = [
        {"workload": "W1", "side": side, "pair": pair, "workflows_per_s": rate, "cpu_seconds_per_1000_steps": {}}
        for pair, rates in enumerate([(200.0, 100.0), (30.0, 10.0), (80.0, 20.0)])
        for side, rate in zip(("ours", "celery"), rates, strict=True)
    ]
    figures = Figures(rows)
    assert figures.ratio("W1", "workflows_per_s") == 3.0
    assert figures.ratio("W1", "workflows_per_s", "handwritten") is None
    assert figures.summary()["w1_ratio_to_celery"] == 3.0
    assert figures.summary()["w2_ratio_to_celery"] is None


def test_a_chart_is_well_formed_and_has_every_point() -> None:
    points = [(0.0, 10.0), (1000.0, 250.0), (1_000_000.0, 240.0)]
    picture = Chart("A <title>", "x & more", "steps/s", {"W1": points}).svg()
    circles = ElementTree.fromstring(picture).findall(".//{http://www.w3.org/2000/svg}circle")
    places = [float(circle.attrib["cx"]) for circle in circles]
    assert len(places) == 3
    assert places == sorted(places)


def test_a_sheet_as_markdown() -> None:
    sheet = Sheet("Speed", ("side", "steps/s"), names=1)
    sheet.add("ours", "1,000")
    assert sheet.markdown() == "**Speed**\n\n| side | steps/s |\n| --- | ---: |\n| ours | 1,000 |\n"


def test_a_flame_graphs_title_says_nothing_of_the_machine() -> None:
    made = '<text id="title" x="50%">/home/me/.venv/bin/py-spy record --pid 7</text><text id="details"> </text>'
    assert entitle(made, "One worker") == '<text id="title" x="50%">One worker</text><text id="details"> </text>'
    with pytest.raises(ValueError, match="0 titles"):
        entitle("<svg></svg>", "One worker")


@pytest.mark.parametrize("picture", sorted(IMAGES.glob("*.svg")), ids=lambda path: path.name)
def test_no_picture_of_the_documents_names_a_path_of_a_machine(picture: Path) -> None:
    assert not re.findall(r"[ >\"](/[\w.-]+/[\w./-]*)", re.sub(r"<!DOCTYPE.*?>", "", picture.read_text(), flags=re.S))
