"""Which identity Postgres runs under: our own, or as root (which it refuses) an unprivileged account that exists."""

import os
import pwd
import subprocess
from pathlib import Path

from contracts.errors import Misconfigured
from orchestrator import launch


def postgres_identity(data_dir: Path) -> launch.Identity | None:
    """None for an ordinary user; for root the first means that works here. Raises Misconfigured when none does."""
    if os.geteuid() != 0:
        return None
    account = _unprivileged_account()
    refusals = []
    for means in ("namespace", "drop"):
        identity = launch.Identity(means, account.pw_uid, account.pw_gid)
        tried = subprocess.run(
            launch.command(["true"], identity=identity), capture_output=True, text=True, check=False, timeout=30
        )
        if tried.returncode == 0:
            return identity
        refusals.append(tried.stderr.strip())
    raise Misconfigured(
        f"{data_dir}: Postgres refuses to run as root, and {'; '.join(refusals)}. "
        "Start this as an ordinary user, or give --database-url."
    )


def give_directory(directory: Path, identity: launch.Identity | None) -> None:
    """Make the data directory the account's own where it really becomes that account; root's again otherwise."""
    if os.geteuid() != 0:
        return
    uid, gid = (identity.uid, identity.gid) if identity and identity.means == "drop" else (os.geteuid(), os.getegid())
    if directory.stat().st_uid == uid:
        return
    for folder, _, files in os.walk(directory):
        for path in (folder, *(os.path.join(folder, name) for name in files)):
            os.chown(path, uid, gid, follow_symlinks=False)


def _unprivileged_account() -> pwd.struct_passwd:
    """Any account but root's: initdb looks its own up. `nobody` last, since foreign files look like its own."""
    accounts = sorted((entry for entry in pwd.getpwall() if entry.pw_uid != 0), key=lambda entry: entry.pw_uid == 65534)
    if not accounts:
        raise Misconfigured(
            "Postgres refuses to run as root and this machine has no other account; use --database-url."
        )
    return accounts[0]
