"""What a data connection costs: a Unix socket, plain TCP over loopback and TLS 1.3 over loopback, taken in turn.

    .venv/bin/python bench/wire.py [--size 1G] [--rounds 5] [--json FILE]

One process sends BLOCK frames of 1 MiB, another receives them, as movers do. Per way: MiB/s, and the CPU seconds of
both sides per GiB. `ratio` is taken within a round, against the Unix socket. Plain TCP is a measure only: movers never
use it. `--json -` prints one object.
"""

import argparse
import os
import resource
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.harness import GIB, MIB, Spread, paired_ratio, parse_size, rotated, span, spread, table
from vbrcore.backupfile.rows import KIND_BLOCK, Row
from vbrcore.mover import frames, tcp, tls
from vbrcore.mover.frames import Connection, DataStream
from vbrcore.mover.messages import Proof
from vbrcore.mover.sockets import connect_to, enlarge_buffer, listen_at
from vbrcore.transport.certificates import proofs

WAYS: Final = ("unix", "tcp", "tls")
_PORTS: Final = (46200, 46299)
_FIGURE: Final = struct.Struct("<d")


class Taken(msgspec.Struct, frozen=True):
    """One transfer: its rate, and the CPU time of both processes."""

    mib_s: float
    cpu_s_per_gib: float


class Figures(msgspec.Struct, frozen=True):
    """All rounds of one way; `ratio` is its rate by the Unix socket's of the same round."""

    mib_s: Spread
    cpu_s_per_gib: Spread
    ratio: Spread | None


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _ends(way: str, directory: Path) -> tuple[socket.socket, socket.socket]:
    """Return a connected pair as movers would have it: who dials, who listens."""
    if way == "unix":
        with listen_at(directory / "data" / "target") as listener:
            dialler = connect_to(directory / "data" / "target")
            accepted, _ = listener.accept()
        enlarge_buffer(accepted)
        return dialler, accepted
    with tcp.listen_on("127.0.0.1", _PORTS) as listener:
        dialler = tcp.dial("127.0.0.1", listener.getsockname()[1])
        accepted, _ = listener.accept()
    tcp.prepare(accepted)
    return dialler, accepted


def _stream(connection: socket.socket, proof: Proof | None, *, server: bool) -> DataStream:
    found: Connection = connection if proof is None else tls.opened(connection, proof, server=server)
    return DataStream(found)


def _send(stream: DataStream, count: int) -> None:
    payload = memoryview(os.urandom(MIB))
    meta = frames.pack_block(Row(bytes(32), MIB, MIB, 0, KIND_BLOCK, 0))
    for _ in range(count):
        stream.send(frames.BLOCK, meta, payload)


def _receive(stream: DataStream, count: int) -> None:
    payload = memoryview(bytearray(MIB))
    for _ in range(count):
        if stream.receive() is None:
            raise RuntimeError("the sender ended early")
        stream.payload_into(payload)


def transfer(way: str, size_bytes: int, directory: Path) -> Taken:
    """Send that much one way between two processes."""
    count = size_bytes // MIB
    dialler, accepted = _ends(way, directory)
    source, target = proofs() if way == "tls" else (None, None)
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if not child:
        accepted.close()
        began_cpu_s = _cpu_s()
        _send(_stream(dialler, source, server=False), count)
        os.write(write_fd, _FIGURE.pack(_cpu_s() - began_cpu_s))
        os._exit(0)
    dialler.close()
    stream = _stream(accepted, target, server=True)
    began, began_cpu_s = time.perf_counter(), _cpu_s()
    _receive(stream, count)
    elapsed_s, cpu_s = time.perf_counter() - began, _cpu_s() - began_cpu_s
    (sender_cpu_s,) = _FIGURE.unpack(os.read(read_fd, _FIGURE.size))
    os.waitpid(child, 0)
    for descriptor in (read_fd, write_fd):
        os.close(descriptor)
    stream.close()
    return Taken(size_bytes / MIB / elapsed_s, (cpu_s + sender_cpu_s) * GIB / size_bytes)


def measure(size_bytes: int, rounds: int) -> dict[str, Figures]:
    """Take every way once per round, beginning with another one each time."""
    taken: dict[str, dict[int, Taken]] = {way: {} for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="wire-") as directory:
        for number in range(rounds):
            for way in rotated(WAYS, number):
                taken[way][number] = transfer(way, size_bytes, Path(directory))
    rates = {way: {number: one.mib_s for number, one in some.items()} for way, some in taken.items()}
    return {
        way: Figures(
            spread(list(rates[way].values())),
            spread([one.cpu_s_per_gib for one in some.values()]),
            paired_ratio(rates[way], rates["unix"]),
        )
        for way, some in taken.items()
    }


def main(argv: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=parse_size, default=GIB)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="write one object there (-: to standard output)")
    options = parser.parse_args(argv)
    found = measure(options.size, options.rounds)
    text = msgspec.json.encode({"size_bytes": options.size, "ways": found}).decode() + "\n"
    if options.json == "-":
        sys.stdout.write(text)
    else:
        if options.json:
            Path(options.json).write_text(text, encoding="ascii")
        rows = [[way, span(f.mib_s, 0), span(f.cpu_s_per_gib, 2), span(f.ratio, 2)] for way, f in found.items()]
        sys.stdout.write(table(["way", "MiB/s", "CPU s/GiB", "to unix"], rows) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
