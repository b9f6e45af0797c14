import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from vbrcore.cli.stream import StreamReceiver
from vbrcore.model.errors import ProtocolError


@pytest.fixture
def output(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def connect(receiver: StreamReceiver, first: bytes) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(receiver.path)
    connection.sendall(first)
    return connection


def test_what_is_sent_is_written(tmp_path: Path, output: int) -> None:
    data = os.urandom(3 * 1024 * 1024 + 17)
    with StreamReceiver(output) as receiver:
        with connect(receiver, receiver.token.encode() + b"\n") as connection:
            connection.sendall(data)
        receiver.finish()
        assert receiver.received_bytes == len(data)
    assert (tmp_path / "out").read_bytes() == data
    assert not Path(receiver.path).parent.exists()


def test_the_directory_cannot_be_listed_by_others(output: int) -> None:
    with StreamReceiver(output) as receiver:
        assert stat.S_IMODE(Path(receiver.path).parent.stat().st_mode) == 0o711


@pytest.mark.parametrize("first", [b"wrong\n", b"", b"x" * 128])
def test_who_has_no_token_is_turned_away(tmp_path: Path, output: int, first: bytes) -> None:
    with StreamReceiver(output) as receiver:
        with connect(receiver, first) as stranger:
            stranger.shutdown(socket.SHUT_WR)
            assert stranger.recv(1) == b""
        with connect(receiver, receiver.token.encode() + b"\n") as connection:
            connection.sendall(b"disk")
        receiver.finish()
    assert (tmp_path / "out").read_bytes() == b"disk"


def test_an_empty_disk_is_complete(output: int) -> None:
    with StreamReceiver(output) as receiver:
        connect(receiver, receiver.token.encode() + b"\n").close()
        receiver.finish()
    assert receiver.received_bytes == 0


def test_nothing_sent_is_an_error(output: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vbrcore.cli.stream._TOKEN_TIMEOUT_S", 0.1)
    with StreamReceiver(output) as receiver, pytest.raises(ProtocolError):
        receiver.finish()


def test_an_output_without_reader_is_told() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with StreamReceiver(writing) as receiver:
        with connect(receiver, receiver.token.encode() + b"\n") as connection:
            connection.sendall(b"disk")
        with pytest.raises(BrokenPipeError):
            receiver.finish()
    os.close(writing)


def test_a_long_temporary_directory(output: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with StreamReceiver(output) as receiver:
        connect(receiver, receiver.token.encode() + b"\n").close()
        receiver.finish()
    assert receiver.path.startswith("/tmp/vbr-stream-")  # noqa: S108
