"""What a share costs: our storage over SMB against smbclient, a kernel mount and the bare directory, on one real smbd.

    .venv/bin/python bench/smb.py [--size 256M] [--rounds 3] [--workdir DIR] --json -

appends blocks of 1 MiB and makes them durable, then reads them, everything encrypted as in the product. All ways take
turns in each round; the last line is one JSON object with the MiB/s of each, and the CPU time per MiB of this process.
A way that cannot be had here says why.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Final

from bench.harness import MIB
from vbrcore.cli.values import size_bytes
from vbrcore.storage.local import LocalStorage
from vbrcore.storage.port import Storage
from vbrcore.storage.smb import SmbStorage
from vbrcore.testing.smbd import PASSWORD_TEXT, SMBD, Smbd

_NAME: Final = "bench/file"
Figures = dict[str, float]


def ours(storage: Storage, blocks: list[bytes]) -> Figures:
    """Append, sync and read over the storage port."""
    appender = storage.create(_NAME)
    figures: Figures = {}
    with _timed(figures, "append", len(blocks)):
        for number, block in enumerate(blocks):
            appender.write(number * MIB, [block])
        appender.sync()
    appender.close()
    reader, buffer = storage.open_reader(_NAME), bytearray(MIB)
    with _timed(figures, "read", len(blocks)):
        for number in range(len(blocks)):
            reader.read_into(number * MIB, [buffer])
    reader.close()
    storage.remove(_NAME)
    return figures


def smbclient(server: Smbd, source: Path, count: int) -> Figures:
    """Have Samba's own client put and get the file, started for each."""
    environment = os.environ | {"USER": server.user, "PASSWD": PASSWORD_TEXT}
    command = ["smbclient", "-s", str(server.home / "smb.conf"), "-p", str(server.port), "--client-protection=encrypt"]
    command += ["-U", server.user, "//127.0.0.1/data", "-c"]
    figures: Figures = {}
    for name, orders in (("append", f"put {source} b"), ("read", "get b /dev/null"), ("", "del b")):
        with _timed(figures, name, count):
            subprocess.run([*command, orders], check=True, capture_output=True, env=environment)
    return {name: value for name, value in figures.items() if not name.startswith("_")}


def mounted(server: Smbd, at: Path) -> str:
    """Mount the share by the kernel; return why it cannot be ("": it is)."""
    at.mkdir()
    options = f"port={server.port},username={server.user},vers=3.1.1,seal"
    done = subprocess.run(
        ["mount", "-t", "cifs", "//127.0.0.1/data", str(at), "-o", options],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PASSWD": PASSWORD_TEXT},
    )
    return "" if done.returncode == 0 else done.stderr.strip().partition("\n")[0] or f"exit code {done.returncode}"


class _timed:  # noqa: N801 - reads as a verb
    """Note MiB/s and CPU milliseconds per MiB of what is done inside."""

    def __init__(self, figures: Figures, name: str, mib: int) -> None:
        self._figures, self._name, self._mib = figures, name or "_", mib

    def __enter__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        self._figures[f"{self._name}_mib_s"] = self._mib / wall
        self._figures[f"{self._name}_cpu_ms_mib"] = cpu * 1000 / self._mib


def measure(root: Path, count: int, rounds: int) -> dict[str, object]:
    blocks = [os.urandom(MIB) for _ in range(count)]
    for name in ("data", "bare"):
        (root / name).mkdir()
    source = root / "source"
    source.write_bytes(b"".join(blocks))
    server = Smbd(root / "smbd")
    server.share("data", root / "data")
    server.start()
    storage = SmbStorage(server.place("data"))
    why_not = mounted(server, root / "mounted")
    ways: dict[str, Callable[[], Figures]] = {
        "smbprotocol": lambda: ours(storage, blocks),
        "smbclient": lambda: smbclient(server, source, count),
        "directory": lambda: ours(LocalStorage(root / "bare"), blocks),
    }
    if not why_not:
        ways["cifs"] = lambda: ours(LocalStorage(root / "mounted"), blocks)
    try:
        runs: dict[str, list[Figures]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                runs[name].append(way())
    finally:
        if not why_not:
            subprocess.run(["umount", str(root / "mounted")], check=True)
        storage.close()
        server.kill()
    medians = {
        name: {key: round(median(run[key] for run in found), 2) for key in found[0]} for name, found in runs.items()
    }
    skipped = {"cifs": why_not} if why_not else {}
    return {"blocks": count, "rounds": rounds, "load": os.getloadavg()[0], "ways": medians, "skipped": skipped}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="256M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--json", default="-")
    args = parser.parse_args()
    if SMBD is None or shutil.which("smbclient") is None:
        print("smbd and smbclient are needed", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(dir=args.workdir) as directory:
        text = json.dumps(measure(Path(directory), size_bytes(args.size) // MIB, args.rounds))
    if args.json == "-":
        print(text)
    else:
        Path(args.json).write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
