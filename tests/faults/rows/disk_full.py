"""F30: the disk of Postgres is full. Nothing that was accepted is lost, reading goes on, and space heals it."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from uuid import UUID

import httpx

from orchestrator.embedded import EmbeddedPostgres
from orchestrator.embedded.folder import free_port
from shared_state import keys, teams
from shared_state.engine import make_engine
from shared_state.migrate import upgrade
from tests.conftest import create_database
from tests.faults import agents
from tests.faults.row import Row
from tests.faults.scene import Scene
from tests.faults.staff import Member

SIZE = "300m"
"""So large that a fresh database leaves more free than `min_free_disk_bytes`."""
SPARE_BYTES = 24_000_000
"""What is left free when the rest is filled up: room for a little more of the log."""
HEAL_SECONDS = 60.0


def fill_disk(scene: Scene) -> None:
    """A Postgres and an API of the row's own; the row's load goes on beside them."""
    folder = Path(tempfile.mkdtemp(prefix="orchestrator-full-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)], check=True)
    try:
        with EmbeddedPostgres(folder / "postgres", log=scene.folder / "postgres-full.log") as postgres:
            create_database(postgres, "full")
            upgrade(postgres.url_of("full"))
            _submit_until_full(scene, folder, postgres.url_of("full"))
            member = scene.staff.members["full"]
            scene.staff.dismiss(member)
            scene.staff.kill(member)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


def _submit_until_full(scene: Scene, folder: Path, database_url: str) -> None:
    engine = make_engine(database_url, pool_size=1)
    teams.apply(engine, "default", agents.team())
    headers = {"Authorization": f"Bearer {keys.create(engine, 'default', 'faults', 'admin')}"}
    engine.dispose()
    with httpx.Client(base_url=_start_api(scene, database_url), headers=headers, timeout=30, trust_env=False) as client:
        scene.until(lambda: _answers(client), "the API answers", 30)
        accepted = {_submit(client) for _ in range(5)}
        ballast = folder / "ballast"
        free = shutil.disk_usage(folder).free
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free - SPARE_BYTES)
        refused: set[object] = set()
        deadline = time.monotonic() + 60
        while not refused and time.monotonic() < deadline:
            answer = _submit(client, size=200_000)
            (accepted if isinstance(answer, UUID) else refused).add(answer)
        scene.injected("full disks")
        scene.expect(refused == {503}, f"with a full disk submissions are answered {refused or 'as ever'}")
        first = next(each for each in accepted if isinstance(each, UUID))
        reading = client.get(f"/v1/tasks/{first}").status_code
        scene.expect(reading == 200, f"with a full disk reading is answered {reading}")
        ballast.unlink()
        began = time.monotonic()
        scene.until(lambda: isinstance(_submit(client), UUID), "with space again it accepts", HEAL_SECONDS)
        scene.facts["well again after"] = f"{time.monotonic() - began:.1f} s"
        gone = [each for each in accepted if client.get(f"/v1/tasks/{each}").status_code != 200]
        scene.facts["accepted meanwhile"] = f"{len(accepted)}, lost {len(gone)}"
        scene.expect(not gone, f"{len(gone)} accepted tasks are gone")


def _start_api(scene: Scene, database_url: str) -> str:
    port = free_port()
    settings = scene.direct.model_copy(update={"database_url": database_url, "listen_port": port})
    scene.staff.hire(Member("full", ("orchestrator", "api"), settings, spared=True))
    return f"http://127.0.0.1:{port}"


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx.TransportError:
        return False


def _submit(client: httpx.Client, size: int = 1) -> UUID | int | str:
    """The task's id, or the status, or what broke."""
    step = {"id": "a", "agent": "work", "input": {"ledger": os.urandom(size // 2).hex()}}
    try:
        answer = client.post("/v1/tasks", json={"team": "faults", "plan": {"steps": [step]}})
    except httpx.TransportError as error:
        return type(error).__name__
    return UUID(answer.json()["id"]) if answer.status_code == 201 else answer.status_code


def _mounting_is_permitted() -> str | None:
    folder = tempfile.mkdtemp(prefix="orchestrator-mount-")
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True)
        if mounted.returncode:
            return f"mounting a tmpfs is not permitted here ({mounted.stderr.decode(errors='replace').strip()[:100]})"
        subprocess.run(["umount", folder], check=True)
        return None
    except FileNotFoundError:
        return "there is no program `mount` here"
    finally:
        os.rmdir(folder)


ROWS = (
    Row(
        "F30",
        "the disk of Postgres is full (tmpfs)",
        "503 for what writes, reading goes on, nothing accepted is lost; space heals it",
        fill_disk,
        seconds=30,
        shortest=20,
        workers=1,
        rate=1,
        permitted=_mounting_is_permitted,
    ),
)
