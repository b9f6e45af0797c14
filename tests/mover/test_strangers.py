"""Who is no mover of this attempt gets nowhere: refused, logged, nothing stored, and the right one still gets in."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from vbrcore.chain.writer import ChainWriter
from vbrcore.manager.routes import endpoints
from vbrcore.model.errors import ErrorInfo, PeerRefused, ProtocolError, VbrError, error_from
from vbrcore.model.routes import Route
from vbrcore.mover import door, frames, tls
from vbrcore.mover.frames import DataStream
from vbrcore.mover.intake import Intake
from vbrcore.mover.link import TargetLink
from vbrcore.mover.meeting import dialled
from vbrcore.mover.messages import Endpoint, ExpectTask
from vbrcore.mover.sockets import connect_to
from vbrcore.mover.tcp import listen_on
from vbrcore.transport.certificates import proofs

SECRET = bytes(range(32))
ROUTE = Route("target_listens", "127.0.0.1", (46200, 46299))
NOW = datetime.now(UTC)


class Gate:
    """A target's intake, its log, and the sources that come to it."""

    def __init__(self, writer: ChainWriter, path: Path) -> None:
        self.writer = writer
        self.words: list[str] = []
        self.intake = Intake(writer, path, print, warn=self.words.append)

    def expect(self, task_id: str = "task", attempt: int = 1, secret: bytes = SECRET) -> Endpoint:
        """Expect an attempt; return what its source is told."""
        for_source, for_target = endpoints(ROUTE, secret)
        port = self.intake.expect(ExpectTask(task_id, attempt, for_target))
        return msgspec.structs.replace(for_source, ports=(port, port))

    def said(self, words: str) -> None:
        """Wait until the log has a line with these words."""
        while not any(words in line for line in self.words):
            time.sleep(0.01)

    def admits(self, endpoint: Endpoint, task_id: str = "task") -> None:
        link = TargetLink(endpoint, task_id, print)
        link.done()
        link.close()
        assert self.writer.stored_bytes == 0


@pytest.fixture
def gate(writer: ChainWriter, tmp_path: Path) -> Iterator[Gate]:
    made = Gate(writer, tmp_path / "data" / "target")
    yield made
    made.intake.close()


def greeting(stream: DataStream, task_id: str = "task", secret: bytes = SECRET) -> str:
    """Say who we are; return the code of the refusal."""
    stream.send(frames.HELLO, msgspec.msgpack.encode(frames.Hello(frames.VERSION, task_id, secret)))
    return refusal(stream)


def refusal(stream: DataStream) -> str:
    frame = stream.receive()
    assert frame is not None
    assert frame.kind == frames.REFUSED
    return error_from(msgspec.msgpack.decode(frame.meta, type=ErrorInfo)).code


def trickle(connection: socket.socket) -> None:
    """Begin a handshake and go on a byte now and then, which must not buy time."""
    for byte in b"\x16\x03\x01\x02\x00" + bytes(512):
        connection.sendall(bytes((byte,)))
        time.sleep(0.02)


def with_proof(endpoint: Endpoint, now: datetime) -> tuple[Endpoint, Endpoint]:
    """Return both sides with certificates that were made at another time."""
    source, target = proofs(now)
    replace = msgspec.structs.replace
    return replace(endpoint, proof=source), replace(endpoint, proof=target, listens=True, ports=ROUTE.ports)


def test_a_certificate_of_nobody_is_refused_and_the_right_one_still_gets_in(gate: Gate) -> None:
    endpoint = gate.expect()
    assert endpoint.proof is not None
    mine, _ = proofs()
    # It knows whom to expect, as somebody who has seen the target's certificate would, and has a key of its own.
    thief = msgspec.structs.replace(mine, peer_certificate=endpoint.proof.peer_certificate)
    with pytest.raises(VbrError):
        TargetLink(msgspec.structs.replace(endpoint, proof=thief), "task", print)
    gate.said("its certificate is not accepted")
    gate.admits(endpoint)


def test_who_has_no_certificate_is_refused(gate: Gate) -> None:
    endpoint = gate.expect()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((endpoint.host, endpoint.ports[0])) as raw,
        context.wrap_socket(raw) as connection,
        pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"),
    ):
        connection.recv(1)
    gate.said("it does not speak TLS as expected")
    gate.admits(endpoint)


@pytest.mark.parametrize("days", [-3, 3])
def test_a_certificate_of_another_time_is_refused(gate: Gate, days: int) -> None:
    for_source, for_target = with_proof(gate.expect(), NOW + timedelta(days=days))
    port = gate.intake.expect(ExpectTask("task", 2, for_target))
    with pytest.raises(PeerRefused, match="expired" if days < 0 else "not yet valid"):
        TargetLink(msgspec.structs.replace(for_source, ports=(port, port)), "task", print)
    gate.said("turned away")
    gate.admits(gate.expect(attempt=3))


@pytest.mark.parametrize("hours", [-23, 23])
def test_a_clock_that_is_wrong_by_less_than_a_day_does_not_matter(gate: Gate, hours: int) -> None:
    for_source, for_target = with_proof(gate.expect(), NOW + timedelta(hours=hours))
    port = gate.intake.expect(ExpectTask("task", 2, for_target))
    gate.admits(msgspec.structs.replace(for_source, ports=(port, port)))


def test_what_an_earlier_attempt_was_given_opens_nothing(gate: Gate) -> None:
    first = gate.expect()
    second = gate.expect(attempt=2, secret=SECRET[::-1])
    with pytest.raises(VbrError):
        gate.admits(first)  # its port is closed, or another attempt's
    with pytest.raises(PeerRefused):
        dialled(msgspec.structs.replace(first, ports=second.ports))
    gate.said("turned away")
    stream = DataStream(dialled(second))
    assert greeting(stream, secret=SECRET) == "permission_refused"  # the right certificate with the old secret
    stream.close()
    gate.admits(gate.expect(attempt=3))


def test_a_connected_attempt_ends_with_the_next_one(gate: Gate) -> None:
    lost: list[VbrError] = []
    link = TargetLink(gate.expect(), "task", lost.append)
    gate.admits(gate.expect(attempt=2, secret=SECRET[::-1]))
    with pytest.raises(VbrError):
        link.done()
    assert lost
    link.close()


def test_a_mover_cannot_be_another_task(gate: Gate) -> None:
    endpoint, other = gate.expect(), gate.expect("other", secret=SECRET[::-1])
    stream = DataStream(dialled(endpoint))
    assert greeting(stream, "other", SECRET[::-1]) == "permission_refused"  # even where it knows that one's secret
    stream.close()
    gate.admits(other, "other")


def test_a_secret_of_a_task_on_another_server_opens_nothing_at_the_socket(gate: Gate) -> None:
    gate.expect()
    stream = DataStream(connect_to(gate.intake.path))
    assert greeting(stream) == "permission_refused"
    stream.close()


def test_lengths_are_bounded_before_memory_is_taken(gate: Gate) -> None:
    endpoint = gate.expect()
    stream = DataStream(dialled(endpoint))
    stream._socket.sendall(frames._HEADER.pack(frames.BLOCK, 64, 2**32 - 1, 0))
    assert refusal(stream) == ProtocolError.code
    stream.close()
    gate.admits(gate.expect(attempt=2))


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(70_000), b"\x00", b""])
def test_who_speaks_no_tls_is_dropped(gate: Gate, words: bytes) -> None:
    endpoint = gate.expect()
    with (
        socket.create_connection((endpoint.host, endpoint.ports[0])) as stranger,
        contextlib.suppress(ConnectionError),
    ):
        stranger.sendall(words)
        stranger.shutdown(socket.SHUT_WR)
        while stranger.recv(4096):
            pass
    gate.said("turned away")
    gate.admits(endpoint)


def test_older_tls_is_refused(gate: Gate) -> None:
    endpoint = gate.expect()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection((endpoint.host, endpoint.ports[0])) as raw, pytest.raises(ssl.SSLError):
        context.wrap_socket(raw)
    gate.said("turned away")
    gate.admits(endpoint)


def test_who_says_nothing_or_very_little_is_dropped_in_time(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_S", 0.3)
    endpoint = gate.expect()
    with socket.create_connection((endpoint.host, endpoint.ports[0])) as silent:
        assert silent.recv(1) == b""
    with socket.create_connection((endpoint.host, endpoint.ports[0])) as slow, pytest.raises(ConnectionError):
        trickle(slow)
    gate.said("turned away")
    monkeypatch.undo()
    gate.admits(endpoint)


def test_many_strangers_do_not_keep_the_right_one_out(gate: Gate) -> None:
    endpoint = gate.expect()
    with contextlib.ExitStack() as crowd:
        connect: Callable[[], socket.socket] = lambda: crowd.enter_context(  # noqa: E731
            socket.create_connection((endpoint.host, endpoint.ports[0]))
        )
        strangers = [connect() for _ in range(3 * door.MAX_STRANGERS)]
        assert strangers[0].recv(1) == b""  # the oldest ones had to go
        gate.admits(endpoint)
        assert strangers[-1].recv(1) == b""  # and with the right one all of them


def test_a_source_says_nothing_to_what_is_no_target(gate: Gate) -> None:
    endpoint = gate.expect()
    _, for_target = endpoints(ROUTE, SECRET)
    assert for_target.proof is not None
    heard: list[PeerRefused] = []
    with listen_on("127.0.0.1", ROUTE.ports) as listener:

        def pretend() -> None:
            connection, _ = listener.accept()
            with connection, pytest.raises(PeerRefused) as caught:
                tls.opened(connection, for_target.proof, server=True)  # type: ignore[arg-type]
            heard.append(caught.value)

        thread = threading.Thread(target=pretend)
        thread.start()
        with pytest.raises(PeerRefused, match="its certificate is not accepted"):
            TargetLink(msgspec.structs.replace(endpoint, ports=(listener.getsockname()[1],) * 2), "task", print)
        thread.join()
    assert heard
    gate.admits(endpoint)


def test_nothing_secret_is_shown() -> None:
    for_source, _ = endpoints(ROUTE, SECRET)
    shown = repr(for_source) + repr(for_source.proof) + repr(ExpectTask("task", 1, for_source))
    assert "PRIVATE" not in shown
    assert repr(SECRET)[2:-1] not in shown
    assert "127.0.0.1" in shown
