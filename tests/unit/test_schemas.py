"""The committed JSON Schemas are those of the models."""

from tests.write_schemas import FOLDER, rendered


def test_the_committed_schemas_have_not_drifted() -> None:
    committed = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    assert committed == rendered(), "run `make schemas` and commit what it wrote"
