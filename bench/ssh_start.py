"""How long a mover takes to start on another server, against `ssh host python3 -c pass` in the same run.

The server is a real sshd on loopback and an account with an empty home: the bundle is sent with the first start.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vbrcore.testing.sshd import Sshd
from vbrcore.transport import boot
from vbrcore.transport.bundle import Bundles, platform_of
from vbrcore.transport.client import TransportClient
from vbrcore.transport.ssh import open_connection


def plain(sshd: Sshd) -> float:
    """Return the seconds that OpenSSH's own client needs for nothing."""
    options = ["-F", "none", "-o", f"UserKnownHostsFile={sshd.directory / 'known'}", "-o", "BatchMode=yes"]
    command = ["ssh", *options, "-i", str(sshd.directory / "identity"), "-p", str(sshd.port)]
    begun = time.perf_counter()
    subprocess.run([*command, f"{sshd.user}@127.0.0.1", "python3 -c pass"], check=True)
    return time.perf_counter() - begun


async def ours(sshd: Sshd, bundles: Bundles) -> tuple[float, bool]:
    """Return the seconds from nothing to a mover that runs, and whether the bundle was sent."""
    begun = time.perf_counter()
    connection = await open_connection(sshd.access(), sshd.secrets)
    client = TransportClient(server="far")
    sent = await client.start_remote(connection, bundles, "job", "session")
    await client.start_mover("source", "job", "session", "task", "disk")
    taken = time.perf_counter() - begun
    await client.close()
    return taken, sent


def main() -> int:
    """Print one JSON object; times in seconds, each the median of its runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", default="-", metavar="FILE", help="where the figures go (-: standard output)")
    arguments = parser.parse_args()
    runs = arguments.runs
    top = Path(tempfile.mkdtemp(prefix="vbr-", dir="/tmp"))
    path = f"{Path(os.path.realpath(sys.executable)).parent}:/usr/bin:/bin"
    try:
        bundles = Bundles(top / "cache")
        begun = time.perf_counter()
        bundle = bundles.bundle_for(platform_of(boot.facts(), "here"))
        built_s = time.perf_counter() - begun
        with Sshd(top / "sshd", environment={"PATH": path}) as sshd:
            (sshd.directory / "known").write_text(f"[127.0.0.1]:{sshd.port} {sshd.host_key}\n")
            plain(sshd)
            first_s, sent = asyncio.run(ours(sshd, bundles))
            pairs = [(plain(sshd), asyncio.run(ours(sshd, bundles))[0]) for _ in range(runs)]
    finally:
        shutil.rmtree(top)
    figures = {
        "runs": runs,
        "bundle_bytes": bundle.archive_bytes,
        "build_s": round(built_s, 3),
        "sent_at_first": sent,
        "first_s": round(first_s, 3),
        "ssh_python_pass_s": round(statistics.median(one for one, _ in pairs), 3),
        "later_s": round(statistics.median(one for _, one in pairs), 3),
        "later_more_s": round(statistics.median(later - one for one, later in pairs), 3),
        "load_average": round(os.getloadavg()[0], 1),
    }
    if arguments.json == "-":
        print(json.dumps(figures))
    else:
        Path(arguments.json).write_text(json.dumps(figures) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
