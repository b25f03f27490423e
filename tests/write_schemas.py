"""Write `contracts/schemas/*.json` from the models: `python -m tests.write_schemas` (`make schemas`)."""

import json
from pathlib import Path

import contracts
from contracts.schema import documents

FOLDER = Path(contracts.__file__).parent / "schemas"


def rendered() -> dict[str, str]:
    return {name: json.dumps(schema, indent=2, sort_keys=True) + "\n" for name, schema in documents().items()}


if __name__ == "__main__":
    for name, text in rendered().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
