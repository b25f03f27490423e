"""`python -m tests.benchmarks.publish`: the figures of build/*.json into docs/performance.md, and their pictures.

Between `<!-- NAME: ... -->` and `<!-- end -->` the text of the document is replaced; where a measurement was not made
it stays as it is.
"""

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks import curves, house, idle, paper
from tests.benchmarks.document import read_document
from tests.benchmarks.figures import Figures
from tests.benchmarks.report import sheets

PICTURES = "images"


def main() -> int:
    options = read_options()
    found = {name: read_document(options.build / f"{name}.json") for name in ("bench", "curves", "house", "idle")}
    documents = {name: document for name, document in found.items() if document is not None}
    text = options.document.read_text(encoding="utf-8")
    for name, block in blocks(documents, options.document.parent / PICTURES).items():
        text, count = re.subn(rf"(<!-- {name}: [^>]*-->\n).*?(<!-- end -->)", _keeping(block), text, flags=re.DOTALL)
        if count != 1:
            print(f"publish: {options.document} has {count} places for {name!r}, not one", file=sys.stderr)
            return 1
    options.document.write_text(text, encoding="utf-8")
    print(f"{options.document}: {', '.join(documents) or 'nothing was measured'}")
    return 0


def blocks(documents: Mapping[str, Mapping[str, Any]], pictures: Path) -> dict[str, str]:
    """Markdown by the name of its place; writes the pictures it shows."""
    made: dict[str, str] = {}
    if bench := documents.get("bench"):
        figures = Figures(bench["rows"])
        made["bench"] = "\n".join([_origin(bench), *(sheet.markdown() for sheet in sheets(figures))])
        made["paper"] = paper.limits(figures).markdown()
    if measured := documents.get("curves"):
        shown = []
        for name, chart in curves.charts(measured["rows"]).items():
            (pictures / f"{name}.svg").write_text(chart.svg(), encoding="utf-8")
            shown.append(f"![{chart.title}: {chart.y_name} against {chart.x_name}]({PICTURES}/{name}.svg)\n")
        made["curves"] = "\n".join([_origin(measured), *shown, curves.sheet(measured["rows"]).markdown()])
    if measured := documents.get("house"):
        made["house"] = "\n".join([_origin(measured), house.sheet(measured["rows"]).markdown()])
    if measured := documents.get("idle"):
        made["idle"] = "\n".join([_origin(measured), idle.sheet(measured["rows"]).markdown()])
    return made


def _origin(document: Mapping[str, Any]) -> str:
    machine = document["machine"]
    postgres = f", PostgreSQL {machine['postgres']}" if machine.get("postgres") else ""
    load = machine["load_average"][2]
    pace = " and ".join(f"{each:.0f}" for each in machine.get("yardstick_ms", ()))
    pace = f"; a million additions took {pace} ms of processor time before and after" if pace else ""
    return (
        f"Measured {document['started_at'][:10]} in {document['seconds'] / 60:.0f} minutes: {machine['cpus']} cores, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, {machine['system']}, Python {machine['python']}{postgres}, "
        f"load average over 15 minutes at the end {load:.1f}{pace}.\n"
    )


def _keeping(block: str) -> Any:
    """For re.subn: the markers as they are, `block` between them."""
    return lambda match: f"{match[1]}{block}{match[2]}"


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.publish", description=__doc__)
    parser.add_argument("--build", type=Path, default=Path("build"), help="where the measurements are (%(default)s)")
    parser.add_argument("--document", type=Path, default=Path("docs/performance.md"), help="%(default)s")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
