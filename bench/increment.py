"""What an increment reads and stores: a 10 GiB qcow2 of a running domain, of which the guest overwrites 100 MiB.

    .venv/bin/python bench/increment.py                      1600 writes of 64 KiB at random places
    .venv/bin/python bench/increment.py --size 2G --dirty 16M --json -

`read_ratio` is what the session read (the audit sample counts apart) by the bytes of the blocks that the writes
touched, 1 MiB each. The aim of the project is 1.2 at most, and to store those blocks only.
"""

import argparse
import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.domain import NAME, URI, Domain, libvirt_missing
from bench.harness import MIB, parse_size
from bench.ours import JOB, Deployment, job_result
from bench.process import prepare

BLOCK_BYTES: Final = MIB
WRITE_BYTES: Final = 64 * 1024
READ_RATIO_AIM: Final = 1.2
_AUDITED: Final = re.compile(r"audited (\d+)")


class Figures(msgspec.Struct, frozen=True):
    """Bytes, but for the ratios and `duration_s`."""

    size_bytes: int
    dirty_bytes: int
    touched_bytes: int
    read_bytes: int
    audited_bytes: int
    stored_bytes: int
    full_read_bytes: int
    duration_s: float
    read_ratio: float
    read_ratio_aim: float = READ_RATIO_AIM


class Writes:
    """Random writes of 64 KiB with content that does not compress, at places that may share blocks."""

    def __init__(self, size_bytes: int, dirty_bytes: int, seed: int) -> None:
        generator = random.Random(seed)  # noqa: S311 - no secret
        places = generator.sample(range(size_bytes // WRITE_BYTES), dirty_bytes // WRITE_BYTES)
        self._offsets = [place * WRITE_BYTES for place in places]
        self._generator = generator

    @property
    def touched_bytes(self) -> int:
        return len({offset // BLOCK_BYTES for offset in self._offsets}) * BLOCK_BYTES

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        for offset in self._offsets:
            yield offset, self._generator.randbytes(WRITE_BYTES)


def measure(directory: Path, size_bytes: int, dirty_bytes: int) -> Figures:
    """Run full, writes, increment. Raises `CommandFailed`."""
    source = directory / "source.raw"
    with source.open("wb") as file:
        for _ in range(min(size_bytes, 512 * MIB) // MIB):
            file.write(os.urandom(MIB))
        file.truncate(size_bytes)
    domain = Domain(directory / "domain", source)
    deployment = Deployment(directory / "home")
    try:
        domain.start()
        deployment.run("hypervisor", "add", "kvm", "--plugin", "kvm", "--set", f"uri={URI}")
        deployment.job("kvm", NAME, directory / "repository")
        full = job_result(deployment.run("job", "run", JOB, "--json"))
        writes = Writes(size_bytes, dirty_bytes, seed=2)
        domain.write(writes.pieces())
        increment = job_result(deployment.run("job", "run", JOB, "--json"))
        log = deployment.run("session", "log", increment.session_id)
    finally:
        deployment.close()
        domain.remove()
    audited_bytes = sum(int(number) for number in _AUDITED.findall(log))
    return Figures(
        size_bytes=size_bytes,
        dirty_bytes=dirty_bytes,
        touched_bytes=writes.touched_bytes,
        read_bytes=increment.read_bytes,
        audited_bytes=audited_bytes,
        stored_bytes=increment.stored_bytes,
        full_read_bytes=full.read_bytes,
        duration_s=increment.duration_s,
        read_ratio=round(increment.read_bytes / writes.touched_bytes, 3),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a program; exit 1 where no domain can be started."""
    parser = argparse.ArgumentParser(description="What an increment of a running domain reads and stores.")
    parser.add_argument("--size", type=parse_size, default=parse_size("10G"), help="of the virtual disk")
    parser.add_argument("--dirty", type=parse_size, default=parse_size("100M"), help="what the guest writes")
    parser.add_argument("--workdir", type=Path, help="a directory for images and repository")
    parser.add_argument("--json", type=Path, help="write the figures here as well (-: only print)")
    options = parser.parse_args(arguments)
    if reason := libvirt_missing():
        print(f"not run: {reason}", file=sys.stderr)
        return 1
    prepare()
    directory = Path(tempfile.mkdtemp(prefix="vbr-increment-", dir=options.workdir or "/var/tmp"))  # noqa: S108
    directory.chmod(0o711)
    try:
        figures = measure(directory, options.size, options.dirty)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    text = msgspec.json.format(msgspec.json.encode(figures)).decode()
    print(text)
    if options.json and str(options.json) != "-":
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
