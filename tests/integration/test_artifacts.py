"""Artifacts in each kind of store: whole, by content, and read by their tenant only."""

import hashlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import Engine

from contracts.errors import InvalidInput, Misconfigured, NotFound, Unavailable
from shared_state import artifacts, keys
from shared_state.artifacts import ArtifactStore, open_bodies
from shared_state.engine import transaction
from shared_state.statements import query


@dataclass
class ObjectServer:
    """The part of S3 that is used, over real HTTP, with its own ledger of what was done."""

    objects: dict[str, bytes] = field(default_factory=dict)
    ledger: list[str] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    state = ObjectServer()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            path = urlsplit(self.path).path
            assert self.headers["Authorization"].startswith("AWS4-HMAC-SHA256 ")
            state.objects[path] = self.rfile.read(int(self.headers["Content-Length"]))
            state.ledger.append(f"PUT {path}")
            self.send_response(200)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            """`?delete`: a list of keys."""
            asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
            told = ""
            for key in re.findall("<Key>([^<]*)</Key>", asked):
                state.ledger.append(f"DELETE {key}")
                state.objects.pop(f"{urlsplit(self.path).path}/{key}", None)
                told += f"<Deleted><Key>{key}</Key></Deleted>"
            body = f"<DeleteResult>{told}</DeleteResult>".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            state.ledger.append(f"{self.command} {path}")
            body = state.objects.get(path)
            self.send_response(200 if body is not None else 404)
            self.send_header("ETag", '"1"')
            self.send_header("Last-Modified", "Fri, 20 Nov 2026 10:00:00 GMT")
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write((body if self.command == "GET" else None) or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    for name, value in {
        "AWS_ENDPOINT_URL": state.url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_REGION": "eu-central-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(params=["postgres:", "file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file://{tmp_path}/store"
    if request.param == "s3":
        request.getfixturevalue("objects")
        return "s3://bucket/prefix"
    return str(request.param)


def test_what_is_put_is_got_by_its_tenant_only(engine: Engine, url: str) -> None:
    keys.create(engine, "other", "k", "admin")
    bodies = open_bodies(url)
    mine, theirs = ArtifactStore(engine, "default", bodies), ArtifactStore(engine, "other", bodies)
    data = b"\x00\xff" * 1000
    ref = mine.put(data, "image/png")
    assert (ref.sha256, ref.size_bytes, ref.media_type) == (hashlib.sha256(data).hexdigest(), 2000, "image/png")
    assert mine.put(data) == ref.model_copy(update={"media_type": "application/octet-stream"})
    assert mine.get(ref) == mine.get(ref.sha256) == data
    assert mine.fetch(ref.sha256) == (data, "image/png")
    with pytest.raises(NotFound):
        theirs.get(ref)
    with pytest.raises(NotFound):
        mine.get("0" * 64)
    assert mine.get(mine.put(b"")) == b""


def test_damage_is_found(engine: Engine, tmp_path: Path) -> None:
    store = ArtifactStore(engine, "default", open_bodies(f"file://{tmp_path}"))
    ref = store.put(b"right")
    (path,) = [each for each in tmp_path.rglob("*") if each.is_file()]
    path.write_bytes(b"wrong")
    with pytest.raises(Unavailable, match="damaged"):
        store.get(ref)


def test_bodies_outside_are_written_before_they_can_be_found(engine: Engine, objects: ObjectServer) -> None:
    ref = ArtifactStore(engine, "default", open_bodies("s3://bucket/prefix")).put(b"x")
    assert objects.ledger == [f"PUT /bucket/prefix/default/{ref.sha256[:2]}/{ref.sha256}"]
    with pytest.raises(Unavailable, match="another store"):
        ArtifactStore(engine, "default", None).get(ref)


def test_bytes_that_are_gone_from_their_store_are_no_defect_of_ours(engine: Engine, objects: ObjectServer) -> None:
    store = ArtifactStore(engine, "default", open_bodies("s3://bucket/prefix"))
    ref = store.put(b"x")
    objects.objects.clear()
    with pytest.raises(Unavailable, match="does not give out"):
        store.get(ref)


def test_a_store_that_refuses_leaves_no_row(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "default").write_text("in the way")
    store = ArtifactStore(engine, "default", open_bodies(f"file://{tmp_path}"))
    with pytest.raises(Unavailable):
        store.put(b"x")
    with transaction(engine) as connection:
        assert query(connection, "select count(*) as n from artifacts") == [{"n": 0}]


def test_bad_urls_and_sizes_are_refused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Misconfigured, match="absolute"):
        open_bodies("file:relative/path")
    monkeypatch.setattr(artifacts, "SIZE_LIMIT_BYTES", 10)
    with pytest.raises(InvalidInput, match="at most 10 bytes"):
        ArtifactStore(engine, "default", None).put(b"x" * 11)
