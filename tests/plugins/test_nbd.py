"""The NBD client against qemu-nbd and nbdkit, and against a server that lies, is silent or dies."""

import random
import socket
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbrcore.model.errors import SinkWriteFailed, SourceReadFailed, TrackingLost, VbrError
from vbrcore.plugins import nbdwire
from vbrcore.plugins.mover import Extent
from vbrcore.plugins.nbd import NbdClient, merged, tcp, unix

MIB = 1024 * 1024
SIZE = 8 * MIB
DIRTY = "qemu:dirty-bitmap:changes"


def run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


def listens(path: str) -> bool:
    """Say whether a server accepts at a Unix socket. To try it would end qemu-nbd, which serves one client."""
    accepting = "00010000"
    fields = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return any(line[3] == accepting and line[-1] == path for line in fields)


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Start a real server on a Unix socket; returns the socket's path."""
    processes: list[subprocess.Popen[bytes]] = []
    directory = tempfile.TemporaryDirectory(prefix="vbr-test-")

    def start(*command: str | Path) -> str:
        path = f"{directory.name}/{len(processes)}"
        words = [str(word).replace("SOCKET", path) for word in command]
        processes.append(subprocess.Popen(words))
        while not listens(path):
            assert processes[-1].poll() is None
        return path

    yield start
    for process in processes:
        process.kill()
        process.wait()
    directory.cleanup()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A qcow2 of 8 MiB with data in the second MiB, and a bitmap of what was written after that."""
    path = tmp_path / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE))
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 1M 1M", path)
    run("qemu-img", "bitmap", "-f", "qcow2", "--add", path, "changes")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 2 1M 64k", "-c", "write -z 5M 128k", path)
    return path


def test_extents_and_dirty_bitmap(serve: Callable[..., str], image: Path) -> None:
    path = serve("qemu-nbd", "-k", "SOCKET", "-f", "qcow2", "-r", "-e", "8", "-B", "changes", image)
    client = NbdClient(unix(path), contexts=("base:allocation", DIRTY))
    assert client.size_bytes == SIZE
    assert client.connections == 4
    assert client.contexts == {"base:allocation", DIRTY}
    assert list(client.extents()) == [
        Extent(0, MIB, "zero"),
        Extent(MIB, MIB, "data"),
        Extent(2 * MIB, 6 * MIB, "zero"),
    ]
    assert list(client.extents(DIRTY)) == [
        Extent(0, MIB, "unchanged"),
        Extent(MIB, 65536, "data"),
        Extent(MIB + 65536, 4 * MIB - 65536, "unchanged"),
        Extent(5 * MIB, 131072, "zero"),
        Extent(5 * MIB + 131072, 3 * MIB - 131072, "unchanged"),
    ]
    with pytest.raises(TrackingLost):
        client.extents("qemu:dirty-bitmap:other")
    client.close()


def test_an_export_that_is_not_there_is_refused_by_name(serve: Callable[..., str], image: Path) -> None:
    path = serve("qemu-nbd", "-k", "SOCKET", "-f", "qcow2", "-r", "-t", "-x", "disk", image)
    with pytest.raises(SourceReadFailed, match="'other'"):
        NbdClient(unix(path), "other")
    with pytest.raises(SourceReadFailed):
        NbdClient(unix(path + "-no"), "disk")
    NbdClient(unix(path), "disk").close()


@pytest.mark.parametrize(
    "options", [(), ("--filter=blocksize-policy", "blocksize-minimum=512", "blocksize-error-policy=error")]
)
def test_parallel_reads_of_any_alignment(serve: Callable[..., str], tmp_path: Path, options: tuple[str, ...]) -> None:
    content = random.Random(3).randbytes(SIZE)  # noqa: S311 - repeatable content, not a secret
    (tmp_path / "disk").write_bytes(content)
    path = serve("nbdkit", "-f", "-r", "-U", "SOCKET", *options[:1], "file", tmp_path / "disk", *options[1:])
    client = NbdClient(unix(path), connections=2)
    assert client.connections == 2
    choose = random.Random(4)  # noqa: S311
    ranges = [(choose.randrange(SIZE), choose.randint(1, 3 * MIB)) for _ in range(200)]

    def read(at: tuple[int, int]) -> bool:
        buffer = bytearray(min(at[1], SIZE - at[0]))
        client.read_into(at[0], memoryview(buffer))
        return buffer == content[at[0] : at[0] + len(buffer)]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, ranges))
    client.close()
    with pytest.raises(SourceReadFailed):
        client.read_into(0, memoryview(bytearray(512)))


@pytest.mark.parametrize("filters", [(), ("--filter=nozero",), ("--no-sr",)])
def test_write_zero_flush(serve: Callable[..., str], tmp_path: Path, filters: tuple[str, ...]) -> None:
    """Also without WRITE_ZEROES and without structured replies."""
    disk = tmp_path / "disk"
    disk.write_bytes(b"\xff" * SIZE)
    mode = ("zeromode=none",) if "--filter=nozero" in filters else ()
    path = serve("nbdkit", "-f", "-U", "SOCKET", *filters, "file", disk, *mode)
    client = NbdClient(unix(path))
    content = random.Random(5).randbytes(3 * MIB)  # noqa: S311
    client.write_from(MIB, memoryview(content))
    client.zero(5 * MIB, 2 * MIB)
    client.flush()
    back = bytearray(3 * MIB)
    client.read_into(MIB, memoryview(back))
    assert back == content
    client.close()
    edges = b"\xff" * MIB
    assert disk.read_bytes() == edges + content + edges + bytes(2 * MIB) + edges


def test_an_error_of_the_server_is_typed_and_the_connection_lives(serve: Callable[..., str]) -> None:
    path = serve(
        "nbdkit", "-f", "-U", "SOCKET", "--filter=error", "memory", "1M", "error=ENOSPC", "error-pwrite-rate=100%"
    )
    client = NbdClient(unix(path))
    for _ in range(2):
        with pytest.raises(SinkWriteFailed, match="No space left"):
            client.write_from(0, memoryview(b"x" * 4096))
    client.read_into(0, memoryview(bytearray(4096)))
    client.close()


def test_tcp() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(["nbdkit", "-f", "-i", "127.0.0.1", "-p", str(port), "memory", "1M"])
    try:
        client = None
        while client is None:
            try:
                client = NbdClient(tcp("127.0.0.1", port))
            except SourceReadFailed:
                assert process.poll() is None
        assert client.size_bytes == MIB
        client.close()
    finally:
        process.kill()
        process.wait()


def test_merged_joins_neighbours_only() -> None:
    extents = [Extent(0, 1, "data"), Extent(1, 1, "data"), Extent(2, 1, "zero"), Extent(3, 1, "data")]
    assert list(merged(iter(extents))) == [Extent(0, 2, "data"), Extent(2, 1, "zero"), Extent(3, 1, "data")]
    assert list(merged(iter([]))) == []


# --- a server that is not honest ----------------------------------------------------------------------

INFO = struct.pack(">HQH", 0, SIZE, 0)


def _option_reply(option: int, kind: int, body: bytes = b"") -> bytes:
    return struct.pack(">QIII", nbdwire.OPTION_REPLY_MAGIC, option, kind, len(body)) + body


GREETING = struct.pack(">QQH", nbdwire.INIT_MAGIC, nbdwire.OPTION_MAGIC, 3)
NEGOTIATION = (
    GREETING
    + _option_reply(8, 1)
    + _option_reply(10, 4, struct.pack(">I", 7) + b"base:allocation")
    + _option_reply(10, 1)
    + _option_reply(7, 3, INFO)
    + _option_reply(7, 1)
)


def _chunk(kind: int, body: bytes, *, flags: int = 1, cookie: int = 1, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return struct.pack(">IHHQI", nbdwire.STRUCTURED_MAGIC, flags, kind, cookie, size) + body


def _data(offset: int, data: bytes, **more: int) -> bytes:
    return _chunk(1, struct.pack(">Q", offset) + data, **more)


def _play(answer: bytes, *, keep_open: bool = False, timeout_s: float = 5.0) -> NbdClient:
    """Return a client whose server has said all of `answer` already, whatever it is asked."""
    ours, theirs = socket.socketpair()

    def say() -> None:
        with theirs:
            try:
                theirs.sendall(answer)
                if not keep_open:
                    theirs.shutdown(socket.SHUT_WR)
                while theirs.recv(65536):
                    pass
            except OSError:
                return

    threading.Thread(target=say, daemon=True).start()
    return NbdClient(lambda: ours, timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"SSH-2.0-OpenSSH", "closed"),
        (b"x" * 18, "no NBD server"),
        (GREETING + _option_reply(9, 1), "broke the negotiation"),
        (GREETING + struct.pack(">QIII", nbdwire.OPTION_REPLY_MAGIC, 8, 1, 1 << 31), "broke the negotiation"),
        (GREETING + _option_reply(8, 3) * 5000, "does not end"),
        (GREETING + _option_reply(8, 1) + _option_reply(10, 1) + _option_reply(7, 1), "no valid size"),
        (
            GREETING + _option_reply(8, 1) + _option_reply(10, 1) + _option_reply(7, 3, INFO)
            + _option_reply(7, 3, struct.pack(">HIII", 3, 3, 4096, 4096)) + _option_reply(7, 1),
            "impossible block sizes",
        ),
        (GREETING + _option_reply(8, 1) + _option_reply(10, 1) + _option_reply(7, 1 << 31 | 6, b"gone"), "gone"),
    ],
)  # fmt: skip
def test_a_broken_negotiation_is_one_error(answer: bytes, message: str) -> None:
    with pytest.raises(SourceReadFailed, match=message):
        _play(answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "closed"),
        (b"\0" * 20, "no reply"),
        (_data(0, b"x" * 512, cookie=9), "not asked"),
        (_data(0, b"x" * 256), "less than"),
        (_data(0, b"x" * 256, flags=0) + _data(0, b"x" * 256), "left out"),
        (_data(256, b"x" * 256), "left out"),
        (_data(0, b"x" * 513), "not asked for"),
        (_data(1 << 60, b"x" * 512), "not asked for"),
        (_chunk(1, b"1234"), "wrong form"),
        (_chunk(1, bytes(8), length=0xFFFFFFFF), "not asked for"),
        (_chunk(2, struct.pack(">QI", 0, 0xFFFFFFFF)), "not asked for"),
        (_chunk(2, b"12"), "wrong form"),
        (_chunk(5, bytes(12)), "wrong form"),
        (_chunk(77, b""), "unknown type"),
        (_chunk(0x8001, b"", length=0xFFFFFF), "wrong form"),
        (_chunk(0x8001, struct.pack(">IH", 5, 4) + b"oops"), "oops"),
        (_chunk(0, b""), "less than"),
        (struct.pack(">IIQ", nbdwire.SIMPLE_MAGIC, 5, 1), "Input/output error"),
    ],
)
def test_a_wrong_reply_to_a_read_is_one_error(answer: bytes, message: str) -> None:
    client = _play(NEGOTIATION + answer)
    with pytest.raises(SourceReadFailed, match=message):
        client.read_into(0, memoryview(bytearray(512)))
    client.close()


@pytest.mark.parametrize(
    "body",
    [
        struct.pack(">III", 7, 0, 0),
        struct.pack(">III", 8, 512, 0),
        struct.pack(">I", 7),
        struct.pack(">II", 7, 512),
        struct.pack(">I", 7) + bytes(MIB + 8),
    ],
)
def test_a_wrong_block_status_is_one_error(body: bytes) -> None:
    client = _play(NEGOTIATION + _chunk(5, body))
    with pytest.raises(SourceReadFailed):
        list(client.extents())
    client.close()


def test_block_status_is_asked_until_the_end() -> None:
    parts = [SIZE // 2, SIZE // 4, SIZE]  # the last one reaches beyond what there is
    answers = [_chunk(5, struct.pack(">III", 7, part, 2 * (at % 2)), cookie=at + 1) for at, part in enumerate(parts)]
    client = _play(NEGOTIATION + b"".join(answers))
    assert list(client.extents()) == [
        Extent(0, SIZE // 2, "data"),
        Extent(SIZE // 2, SIZE // 4, "zero"),
        Extent(SIZE * 3 // 4, SIZE // 4, "data"),
    ]
    client.close()


def test_a_silent_server_fails_all_that_wait() -> None:
    client = _play(NEGOTIATION, keep_open=True, timeout_s=0.3)
    failed: list[Exception] = []

    def read() -> None:
        try:
            client.read_into(0, memoryview(bytearray(512)))
        except SourceReadFailed as error:
            failed.append(error)

    threads = [threading.Thread(target=read) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failed) == 5
    assert all("silent for 0.3 s" in str(error) for error in failed)
    client.close()


def test_a_server_that_is_silent_from_the_start_is_given_up() -> None:
    with pytest.raises(SourceReadFailed, match="silent"):
        _play(b"", keep_open=True, timeout_s=0.2)


def test_close_ends_a_read_that_waits() -> None:
    client = _play(NEGOTIATION, keep_open=True, timeout_s=60)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.read_into, 0, memoryview(bytearray(512)))
        while not client._connections[0]._receiving:
            pass
        client.close()
        with pytest.raises(SourceReadFailed):
            waiting.result()


@settings(max_examples=150, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.integers(0, 800),
)
def test_no_stream_of_a_server_does_more_than_a_typed_error(edits: list[tuple[int, int]], cut: int) -> None:
    stream = bytearray(NEGOTIATION + _data(0, b"x" * 256, flags=0) + _chunk(2, struct.pack(">QI", 256, 256)))
    stream += _chunk(5, struct.pack(">IIIII", 7, 65536, 2, SIZE, 0), cookie=2)
    for at, value in edits:
        stream[at % len(stream)] = value
    client = None
    try:
        client = _play(bytes(stream[:cut] if cut < 700 else stream))
        if client.size_bytes <= SIZE:
            client.read_into(0, memoryview(bytearray(512)))
            assert sum(extent.length for extent in client.extents()) == client.size_bytes
    except VbrError:
        pass
    finally:
        if client is not None:
            client.close()
