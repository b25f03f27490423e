"""Write the table of reason codes in `docs/dead-letters.md`: `python -m tests.write_code_table` (`make schemas`)."""

from pathlib import Path

from contracts.errors import CODES

DOCUMENT = Path(__file__).parent.parent / "docs" / "dead-letters.md"
BEGIN, END = "<!-- codes: written by make schemas -->\n", "<!-- end of codes -->"


def rendered(document: str) -> str:
    """The document with the table as the catalogue has it. Raises `ValueError` where its marks are missing."""
    rows = [
        f"| `{name}` | {'yes' if code.retryable else 'no'} | {code.meaning} | {code.remedy} |"
        for name, code in sorted(CODES.items())
    ]
    table = "\n".join(["| reason | tried again first | what it means | what to do |", "|---|---|---|---|", *rows])
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{DOCUMENT.name} has lost its marks")
    return f"{before}{begin}{table}\n{end}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(rendered(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
