"""Make the folder of secrets that docker-compose.yml and Kubernetes mount as files.

Strong random values, one file each; a file that exists is kept, so running it again changes nothing. The folder is its
owner's alone. The files in it can be read by all, since a container's user is another one than yours.
"""

import argparse
import os
import secrets
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

HOSTS = {"postgres": "postgres:5432", "redis": "redis:6379"}


def make_secrets(folder: Path, hosts: Mapping[str, str] = HOSTS) -> list[str]:
    """Names of the files that were made. `hosts` says where `postgres` and `redis` are, as HOST:PORT."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(stat.S_IRWXU)
    made: list[str] = []

    def keep(name: str, value: str) -> str:
        path = folder / name
        if not path.exists():
            draft = folder / f".{name}.new"
            draft.write_text(value + "\n", encoding="ascii")
            draft.chmod(0o444)
            os.replace(draft, path)
            made.append(name)
        return path.read_text(encoding="ascii").strip()

    database = keep("postgres_password", _random())
    broker = keep("redis_password", _random())
    keep("redis.conf", f"requirepass {broker}")
    keep("database_url", f"postgresql://orchestrator:{database}@{hosts['postgres']}/orchestrator")
    keep("broker_url", f"redis://:{broker}@{hosts['redis']}/0")
    keep("signing_keys", f"first:{_random()}")
    keep("metrics_token", _random())
    keep("flower_password", _random())
    keep("grafana_password", _random())
    return made


def _random() -> str:
    """256 bits, in characters that need no escaping in a URL."""
    return secrets.token_urlsafe(32)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("deploy/secrets"))
    folder = parser.parse_args().folder
    made = make_secrets(folder)
    sys.stdout.write(f"{folder}: made {', '.join(made)}\n" if made else f"{folder}: nothing to make\n")


if __name__ == "__main__":
    main()
