"""What a target refuses, and that it stores nothing of it."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from vbrcore.backupfile.codec import checksum, digest
from vbrcore.backupfile.rows import KIND_BLOCK, KIND_PAGE, Row
from vbrcore.chain import writer as chain
from vbrcore.chain.writer import ChainWriter
from vbrcore.model.errors import ErrorInfo, ProtocolError, RepositoryFull, VbrError
from vbrcore.mover import frames
from vbrcore.mover.frames import DataStream
from vbrcore.mover.intake import Intake
from vbrcore.mover.link import TargetLink
from vbrcore.mover.messages import Endpoint, ExpectTask
from vbrcore.mover.sockets import connect_to

SECRET = bytes(range(32))


@pytest.fixture
def intake(writer: ChainWriter, tmp_path: Path) -> Iterator[Intake]:
    made = Intake(writer, tmp_path / ("deep" * 40) / "data" / "target", print)
    made.expect(ExpectTask("task", 1, Endpoint(str(made.path), SECRET)))
    yield made
    made.close()


def noise(seed: int, size_bytes: int) -> bytes:
    return random.Random(seed).randbytes(size_bytes)  # noqa: S311 - the same in each run


def refusal(stream: DataStream) -> str:
    frame = stream.receive()
    assert frame is not None
    assert frame.kind == frames.REFUSED
    return msgspec.msgpack.decode(frame.meta, type=ErrorInfo).code


@pytest.fixture
def connect(intake: Intake) -> Iterator[Callable[..., DataStream]]:
    streams: list[DataStream] = []

    def made(task_id: str = "task", secret: bytes = SECRET) -> DataStream:
        stream = DataStream(connect_to(intake.path))
        streams.append(stream)
        stream.send(frames.HELLO, msgspec.msgpack.encode(frames.Hello(frames.VERSION, task_id, secret)))
        return stream

    yield made
    for stream in streams:
        stream.close()


def admitted(stream: DataStream) -> DataStream:
    frame = stream.receive()
    assert frame is not None
    assert frame.kind == frames.WELCOME
    return stream


def block(data: bytes, kind: int = KIND_BLOCK) -> Row:
    return Row(digest(data), len(data), len(data), 0, kind, checksum(data))


def stored(writer: ChainWriter, row: Row) -> bool:
    return writer.lookup([row.digest], 999) == bytes((chain.HAVE,))


def test_status_bytes_are_those_of_the_chain() -> None:
    assert (frames.HAVE, frames.WAIT, frames.SEND) == (chain.HAVE, chain.WAIT, chain.SEND)


def test_the_place_is_private_and_goes_with_the_intake(intake: Intake) -> None:
    assert intake.path.parent.stat().st_mode & 0o777 == 0o700
    assert len(str(intake.path)) > 108
    intake.close()
    assert not intake.path.parent.exists()


def test_a_wrong_secret_is_refused(connect: Callable[..., DataStream]) -> None:
    assert refusal(connect(secret=bytes(32))) == "permission_refused"
    assert refusal(connect(secret=b"")) == "permission_refused"
    admitted(connect())
    assert refusal(connect()) == "permission_refused"  # it is connected already


def test_a_new_attempt_makes_the_old_one_void(intake: Intake, connect: Callable[..., DataStream]) -> None:
    old = admitted(connect())
    intake.expect(ExpectTask("task", 2, Endpoint(str(intake.path), SECRET[::-1])))
    assert old.receive() is None
    intake.expect(ExpectTask("task", 1, Endpoint(str(intake.path), SECRET)))
    assert refusal(connect()) == "permission_refused"
    admitted(connect(secret=SECRET[::-1]))


def test_what_is_no_greeting_is_refused(intake: Intake) -> None:
    for garbage in (b"GET / HTTP/1.1\r\n\r\n" * 3, bytes(100), noise(1, 4096)):
        with connect_to(intake.path) as connection:
            connection.sendall(garbage)
            assert refusal(DataStream(connection)) == "protocol_error"


@pytest.mark.parametrize(
    "meta", [b"\x93\x01\xa1\xff\xc4\x01s", b"\x83\xa7version\x01\xa7task_id\xa1\xff", b"\x91" * 60_000]
)
def test_a_greeting_that_cannot_be_decoded_ends_only_its_own_connection(
    intake: Intake, connect: Callable[..., DataStream], meta: bytes
) -> None:
    stream = DataStream(connect_to(intake.path))
    stream.send(frames.HELLO, meta)
    assert refusal(stream) == ProtocolError.code
    stream.close()
    admitted(connect())


def test_a_corrupt_block_is_never_stored(writer: ChainWriter, connect: Callable[..., DataStream]) -> None:
    data = noise(1, 500_000)
    row = block(data)
    stream = admitted(connect())
    stream.send(frames.BLOCK, frames.pack_block(row), data[:-1] + bytes((data[-1] ^ 1,)))
    assert refusal(stream) == "protocol_error"
    assert not stored(writer, row)
    assert writer.stored_bytes == 0


def test_a_corrupt_row_is_never_stored(writer: ChainWriter, connect: Callable[..., DataStream]) -> None:
    data = noise(2, 5000)
    row = block(data)
    stream = admitted(connect())
    head = bytearray()

    class Recorder:
        def sendmsg(self, parts: tuple[bytes, bytes]) -> int:
            head.extend(b"".join(parts))
            return len(head)

    DataStream(Recorder()).send(frames.BLOCK, frames.pack_block(row), data)  # type: ignore[arg-type]
    head[frames.HEADER_BYTES + 3] ^= 1
    stream._socket.sendall(head)
    assert refusal(stream) == "protocol_error"
    assert writer.stored_bytes == 0


def test_a_page_that_is_not_what_it_is_called_is_never_stored(
    writer: ChainWriter, connect: Callable[..., DataStream]
) -> None:
    page = noise(3, 8192)
    row = msgspec.structs.replace(block(page, KIND_PAGE), digest=bytes(range(32)))
    stream = admitted(connect())
    stream.send(frames.BLOCK, frames.pack_block(row), page)
    assert refusal(stream) == "data_corrupt"
    assert not stored(writer, row)


def test_lengths_are_bounded_before_memory_is_taken(connect: Callable[..., DataStream]) -> None:
    stream = admitted(connect())
    stream._socket.sendall(frames._HEADER.pack(frames.BLOCK, 64, 2**32 - 1, 0))
    assert refusal(stream) == "protocol_error"


def test_promises_of_a_source_that_is_gone_are_given_to_others(
    connect: Callable[..., DataStream], writer: ChainWriter
) -> None:
    name = digest(b"block")
    first = admitted(connect())
    first.send(frames.ASK, frames.pack_ask(1, [name]))
    reply = first.receive()
    assert reply is not None
    assert frames.unpack_answer(reply.meta) == (1, bytes((frames.SEND,)))
    assert writer.lookup([name], 999) == bytes((frames.WAIT,))
    first.close()
    while writer.lookup([name], 999) != bytes((frames.SEND,)):
        pass


def test_a_full_repository_ends_sources_with_that_reason(intake: Intake) -> None:
    lost: list[VbrError] = []
    link = TargetLink(Endpoint(str(intake.path), SECRET), "task", lost.append)
    try:
        intake.refuse_all(RepositoryFull("half of the reserve is gone"))
        with pytest.raises(RepositoryFull):
            link.done()
        with pytest.raises(RepositoryFull):
            TargetLink(Endpoint(str(intake.path), SECRET), "task", lost.append)
    finally:
        link.close()


def test_a_link_to_nobody_says_so(tmp_path: Path) -> None:
    with pytest.raises(VbrError, match="does not listen"):
        TargetLink(Endpoint(str(tmp_path / "none"), SECRET), "task", print)


def test_a_refused_link_raises_the_reason(intake: Intake) -> None:
    with pytest.raises(VbrError, match="not expected"):
        TargetLink(Endpoint(str(intake.path), b"wrong"), "task", print)
    with pytest.raises(ProtocolError):
        frames.unpack_ask(b"")
