"""The embedded servers: durable, private, gone with their owner, and able to start after any kind of death."""

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import redis

from contracts.errors import Misconfigured
from orchestrator import launch
from orchestrator.embedded import EmbeddedPostgres, EmbeddedRedis
from orchestrator.embedded.folder import DirectoryLock
from orchestrator.embedded.identity import postgres_identity

OWNER = """
import sys, time
from pathlib import Path
from orchestrator.embedded import EmbeddedPostgres, EmbeddedRedis
server = {"postgres": EmbeddedPostgres, "redis": EmbeddedRedis}[sys.argv[1]](Path(sys.argv[2]))
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""


def eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """No such process, or only its zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def killed_owner(kind: str, folder: Path) -> int:
    """Start a server in a process of its own, kill that process; returns the server's pid."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER, kind, str(folder)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner, owner.stdout:
        pid = int(owner.stdout.readline())
        owner.kill()
    return pid


def setting(url: str, name: str) -> str:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT current_setting(%s)", [name]).fetchone()
    assert row is not None
    return str(row[0])


def test_postgres_is_durable_and_only_local(postgres: EmbeddedPostgres) -> None:
    assert setting(postgres.url, "fsync") == "on"
    assert setting(postgres.url, "synchronous_commit") == "on"
    assert setting(postgres.url, "full_page_writes") == "on"
    assert setting(postgres.url, "listen_addresses") == "127.0.0.1"
    assert setting(postgres.url, "server_encoding") == "UTF8"


def test_postgres_wants_its_password(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://orchestrator:wrong@127.0.0.1:{postgres.port}/orchestrator")


def test_secrets_are_private_and_not_in_the_process_list(
    postgres: EmbeddedPostgres, redis_server: EmbeddedRedis
) -> None:
    shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    for server, names in ((postgres, ["password"]), (redis_server, ["password", "redis.conf"])):
        assert (server.data_dir / "password").read_text().strip() not in shown
        for name in names:
            assert stat.S_IMODE((server.data_dir / name).stat().st_mode) == 0o600


@pytest.mark.parametrize("version", [16, 18])
def test_postgres_keeps_its_data_over_a_restart(tmp_path: Path, version: int) -> None:
    server = EmbeddedPostgres(tmp_path / "pg", version)
    with server, psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 41 + 1 AS answer")
    with server, psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
        assert connection.info.server_version // 10_000 == version
    assert not server.alive()
    other = 34 - version
    with pytest.raises(Misconfigured, match=f"made by PostgreSQL {version}"):
        EmbeddedPostgres(tmp_path / "pg", other).start()


def test_postgres_starts_again_on_the_same_port_after_a_kill(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "pg") as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
            assert server.pid is not None
            url, pid = server.url, server.pid
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: not server.alive())
        server.start()
        assert server.url == url
        assert server.pid != pid
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_redis_starts_again_on_the_same_port_after_a_kill(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server:
        assert server.pid is not None
        url = server.url
        os.kill(server.pid, signal.SIGKILL)
        eventually(lambda: not server.alive())
        server.start()
        assert server.url == url
        with redis.Redis.from_url(url) as client:
            assert client.ping()
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("appendfsync") == {"appendfsync": "everysec"}


def test_a_damaged_redis_file_is_put_aside(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server, redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
    for file in (tmp_path / "redis" / "data" / "appendonlydir").glob("*.aof"):
        file.write_bytes(b"garbage" * 100)
    for file in (tmp_path / "redis" / "data").glob("*.aof"):
        file.write_bytes(b"garbage" * 100)
    with EmbeddedRedis(tmp_path / "redis") as server, redis.Redis.from_url(server.url) as client:
        assert client.get("key") is None
    assert (tmp_path / "redis" / "data.damaged").is_dir()


@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_no_server_outlives_a_killed_owner(tmp_path: Path, kind: str) -> None:
    pid = killed_owner(kind, tmp_path / kind)
    eventually(lambda: gone(pid))


def test_an_orphan_does_not_block_a_start(tmp_path: Path) -> None:
    """An orphan: started without the death signal, so that it really survives."""
    with EmbeddedPostgres(tmp_path / "pg") as first:
        binaries = Path(f"/proc/{first.pid}/exe").resolve().parent
        port = first.port
    folder = tmp_path / "pg" / "data"
    identity = postgres_identity(folder)
    program = [str(binaries / "postgres"), "-D", str(folder), "-p", str(port), "-k", ""]
    orphan = subprocess.Popen(
        launch.command(program, death_signal=signal.SIGURG, identity=identity),
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with orphan:
        eventually(lambda: "ready" in (folder / "postmaster.pid").read_text() if _exists(folder) else False)
        with EmbeddedPostgres(tmp_path / "pg", port=port) as second:
            assert orphan.wait(10) is not None
            assert setting(second.url, "port") == str(port)


def test_a_pid_file_that_names_somebody_else_does_not_block_a_start(tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "pg") as server:
        port = server.port
    folder = tmp_path / "pg" / "data"
    with subprocess.Popen(["sleep", "60"]) as other:
        stale = f"{other.pid}\n{folder}\n1\n{port}\n\n127.0.0.1\n0\nready\n"
        (folder / "postmaster.pid").write_text(stale)
        (folder / "postmaster.pid").chmod(0o600)
        try:
            with EmbeddedPostgres(tmp_path / "pg") as third:
                assert third.alive()
                assert other.poll() is None, "it is nobody of ours"
        finally:
            other.kill()


def _exists(folder: Path) -> bool:
    return (folder / "postmaster.pid").exists()


def test_a_half_made_cluster_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "pg" / "data.new" / "base").mkdir(parents=True)
    with EmbeddedPostgres(tmp_path / "pg") as server:
        assert server.alive()
    assert not (tmp_path / "pg" / "data.new").exists()


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedRedis])
def test_a_taken_port_is_said_and_nothing_stays_running(
    tmp_path: Path, kind: type[EmbeddedPostgres] | type[EmbeddedRedis]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = kind(tmp_path / "server", port=port)
        with pytest.raises(Misconfigured, match=f"port {port} is taken"):
            server.start()
    assert not server.alive()
    server.start()
    server.stop()


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedRedis])
def test_an_unusable_directory_is_said(tmp_path: Path, kind: type[EmbeddedPostgres] | type[EmbeddedRedis]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Misconfigured, match="data directory cannot be used"):
        kind(tmp_path / "file" / "below").start()


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"No space left.*free some space"):
        _write_to_full_disk(tmp_path)


def _write_to_full_disk(folder: Path) -> None:
    (folder / "lock").symlink_to("/dev/full")
    from orchestrator.embedded.folder import unusable

    try:
        (folder / "lock").write_text("x")
    except OSError as error:
        raise unusable(folder, error) from None


def test_a_directory_has_one_owner(tmp_path: Path) -> None:
    first, second = DirectoryLock(tmp_path, "dev server"), DirectoryLock(tmp_path, "dev server")
    first.take()
    with pytest.raises(Misconfigured, match=f"another dev server .process {os.getpid()}."):
        second.take()
    first.release()
    second.take()
    second.release()


def test_missing_binaries_name_the_extra(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"agent-orchestrator\[embedded\]"):
        EmbeddedPostgres(tmp_path / "pg", 9).start()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_root_can_also_drop_to_an_account_where_namespaces_are_forbidden(tmp_path: Path) -> None:
    account = postgres_identity(tmp_path)
    assert account is not None
    dropped = account._replace(means="drop")
    shown = subprocess.run(
        launch.command(["/bin/sh", "-c", f"id -u; ls {tmp_path}"], identity=dropped), capture_output=True, text=True
    )
    assert (shown.stdout.split(), shown.stderr) == ([str(account.uid)], "")
