"""Artifacts: content-addressed bytes of any size, read only by their tenant.

Where the bytes lie is a URL: `postgres:` (the default, in the artifacts table), `file:///shared/directory`, or any
object store that obstore speaks (`s3://bucket/prefix`, `gs://`, `az://`; extra `objects`). The row in Postgres is
written last, so an artifact that can be found is whole. Its `created_at` is when it was last put, give or take an
hour: what nothing refers to is collected some days after that (`collect.py`).
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from sqlalchemy import Engine

from contracts.context import ArtifactRef
from contracts.errors import InvalidInput, Misconfigured, NotFound, Unavailable
from shared_state.connection import Connection
from shared_state.engine import transaction
from shared_state.statements import query, run

SIZE_LIMIT_BYTES = 256_000_000


class Bodies(Protocol):
    """Somewhere outside Postgres that keeps bytes under a name. All methods raise `OSError`."""

    location: str

    def write(self, name: str, data: bytes) -> None: ...

    def read(self, name: str) -> bytes: ...

    def has(self, name: str) -> bool: ...

    def remove(self, names: Sequence[str]) -> None:
        """Those that are not there are no error."""


class DirectoryBodies:
    """A directory that all workers and the API share."""

    location = "directory"

    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, name: str, data: bytes) -> None:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written aside and renamed, so that a reader sees all of it or nothing.
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as part:
            part.write(data)
            part.flush()
            os.fsync(part.fileno())
        os.replace(part.name, path)

    def read(self, name: str) -> bytes:
        return (self._root / name).read_bytes()

    def has(self, name: str) -> bool:
        return (self._root / name).is_file()

    def remove(self, names: Sequence[str]) -> None:
        for name in names:
            (self._root / name).unlink(missing_ok=True)


class ObjectBodies:
    """An object store, through obstore."""

    location = "objects"

    def __init__(self, url: str) -> None:
        try:
            import obstore
        except ImportError as error:
            text = f"artifact_url {url!r} needs the extra: pip install 'agent-orchestrator[objects]'"
            raise Misconfigured(text) from error
        self._obstore: Any = obstore
        self._store = obstore.store.from_url(url)

    def write(self, name: str, data: bytes) -> None:
        with self._errors():
            self._obstore.put(self._store, name, data)

    def read(self, name: str) -> bytes:
        with self._errors():
            return bytes(self._obstore.get(self._store, name).bytes())

    def has(self, name: str) -> bool:
        try:
            with self._errors():
                self._obstore.head(self._store, name)
        except FileNotFoundError:
            return False
        return True

    def remove(self, names: Sequence[str]) -> None:
        with suppress(FileNotFoundError), self._errors():
            self._obstore.delete(self._store, list(names))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """The library's own as what they are for others: no file, or a store that does not work."""
        try:
            yield
        except FileNotFoundError:
            raise
        except self._obstore.exceptions.BaseError as error:
            raise OSError(type(error).__name__) from error


@dataclass(frozen=True)
class Prepared:
    """`body` is null where the bytes lie elsewhere already."""

    tenant: str
    ref: ArtifactRef
    location: str
    body: bytes | None

    def insert(self, connection: Connection) -> None:
        run(
            connection,
            "put_artifact",
            tenant=self.tenant,
            sha256=self.ref.sha256,
            size=self.ref.size_bytes,
            media_type=self.ref.media_type,
            location=self.location,
            body=self.body,
        )


class ArtifactStore:
    """One tenant's artifacts. Safe to use from several threads."""

    def __init__(self, engine: Engine, tenant: str, bodies: Bodies | None) -> None:
        self._engine = engine
        self._tenant = tenant
        self._bodies = bodies

    def put(self, data: bytes, media_type: str = "application/octet-stream") -> ArtifactRef:
        """Store bytes; the same bytes are stored once. Raises `InvalidInput` above the size limit."""
        prepared = self.prepare(data, media_type)
        with transaction(self._engine) as connection:
            prepared.insert(connection)
        return prepared.ref

    def prepare(self, data: bytes, media_type: str) -> "Prepared":
        """Bytes that are where bytes lie, for a transaction of the caller's to make them an artifact."""
        if len(data) > SIZE_LIMIT_BYTES:
            raise InvalidInput(f"an artifact has at most {SIZE_LIMIT_BYTES} bytes; this one has {len(data)}")
        ref = ArtifactRef(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), media_type=media_type[:200])
        if self._bodies is None:
            return Prepared(self._tenant, ref, "postgres", data)
        if not self._has(ref.sha256, self._bodies):
            try:
                self._bodies.write(body_name(self._tenant, ref.sha256), data)
            except OSError as error:
                raise refuses("write", error) from error
        return Prepared(self._tenant, ref, self._bodies.location, None)

    def _has(self, sha256: str, bodies: Bodies) -> bool:
        """Whether these bytes are there and will not be collected meanwhile: where they are just being, it waits."""
        with transaction(self._engine) as connection:
            known = run(connection, "touch_artifact", tenant=self._tenant, sha256=sha256, location=bodies.location)
        try:
            return bool(known) and bodies.has(body_name(self._tenant, sha256))
        except OSError as error:
            raise refuses("look", error) from error

    def get(self, ref: ArtifactRef | str) -> bytes:
        """The bytes, checked against their digest. Raises `NotFound` for what is not this tenant's."""
        return self.fetch(ref if isinstance(ref, str) else ref.sha256)[0]

    def fetch(self, sha256: str) -> tuple[bytes, str]:
        """The bytes and their media type."""
        with transaction(self._engine) as connection:
            rows = query(
                connection,
                "select location, body, media_type from artifacts where tenant_id = %(tenant)s and sha256 = %(sha256)s",
                tenant=self._tenant,
                sha256=sha256,
            )
        if not rows:
            raise NotFound(f"there is no artifact {sha256[:64]}")
        if rows[0]["location"] == "postgres":
            data = bytes(rows[0]["body"])
        elif self._bodies is None or self._bodies.location != rows[0]["location"]:
            raise Unavailable(f"artifact {sha256} lies in another store than artifact_url names")
        else:
            try:
                data = self._bodies.read(body_name(self._tenant, sha256))
            except OSError as error:
                raise Unavailable(f"the artifact store does not give out {sha256} ({type(error).__name__})") from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise Unavailable(f"artifact {sha256} is damaged in its store")
        return data, rows[0]["media_type"]


def body_name(tenant: str, sha256: str) -> str:
    """Where the bytes lie in a store outside Postgres."""
    return f"{tenant}/{sha256[:2]}/{sha256}"


def refuses(what: str, error: Exception) -> Unavailable:
    return Unavailable(f"the artifact store refuses to {what} ({type(error).__name__})")


def open_bodies(url: str) -> Bodies | None:
    """Where artifact bytes lie, by URL; None for Postgres itself. Raises `Misconfigured`."""
    if url in ("postgres", "postgres:"):
        return None
    parts = urlsplit(url)
    if parts.scheme == "file":
        root = Path(unquote(parts.path))
        if not root.is_absolute():
            raise Misconfigured(f"artifact_url {url!r}: a file URL needs an absolute path (file:///...)")
        root.mkdir(parents=True, exist_ok=True)
        return DirectoryBodies(root)
    return ObjectBodies(url)
