"""Programs of newer releases of Debian, unpacked beside the tests and not installed."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path


def newer(package: str, directory: Path) -> str | None:
    """Return a package's program from Debian sid, unpacked here; None if it cannot be obtained.

    Args:
        package: its name, and that of its program.
        directory: for downloads; the program is kept for the next run.
    """
    found = Path(os.environ.get("SHMSTATS_TEST_CACHE", "/var/tmp/shmstats-tests")) / package
    program = found / "usr/bin" / package
    if not program.exists():
        lists = directory / "lists"
        (lists / "partial").mkdir(parents=True)
        source = directory / "sources.list"
        source.write_text(
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian sid main\n"
        )
        apt = [
            "apt-get", "-qq", "-o", f"Dir::Etc::SourceList={source}", "-o", "Dir::Etc::SourceParts=/dev/null",
            "-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={directory}", "-o", "APT::Sandbox::User=root",
        ]  # fmt: skip
        with suppress(OSError, subprocess.SubprocessError, ValueError):
            subprocess.run([*apt, "update"], check=True, timeout=300, capture_output=True)
            subprocess.run([*apt, "download", package], cwd=directory, check=True, timeout=300, capture_output=True)
            [archive] = directory.glob(f"{package}_*.deb")
            found.mkdir(parents=True, exist_ok=True)
            subprocess.run(["dpkg", "-x", str(archive), str(found)], check=True, timeout=300)
    return str(program) if program.exists() else None
