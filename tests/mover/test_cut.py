"""A cut network is noticed in time, and a peer that is only slow is not taken for one that is gone."""

import asyncio
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from vbrcore.model.errors import MoverLost
from vbrcore.mover import messages as m
from vbrcore.mover import tcp, tls
from vbrcore.transport.certificates import proofs

MIB = 1024 * 1024


def connections() -> tuple[tls.TlsConnection, tls.TlsConnection]:
    """Return both ends of a connection over loopback: the dialler's and the listener's."""
    source, target = proofs()
    found: list[tls.TlsConnection] = []
    with tcp.listen_on("127.0.0.1", (46200, 46299)) as listener:
        dialler = tcp.dial("127.0.0.1", listener.getsockname()[1])
        accepted, _ = listener.accept()
    tcp.prepare(accepted)
    thread = threading.Thread(target=lambda: found.append(tls.opened(accepted, target, server=True)))
    thread.start()
    ours = tls.opened(dialler, source, server=False)
    thread.join()
    return ours, found[0]


def drop_all() -> None:
    subprocess.run(["iptables", "-A", "INPUT", "-p", "tcp", "-j", "DROP"], check=True)


@pytest.mark.usefixtures("own_network")
def test_a_sender_with_full_buffers_notices_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "SILENCE_S", 1.0)
    ours, theirs = connections()
    drop_all()
    with pytest.raises(TimeoutError, match="the network between the movers is cut"):
        ours.sendall(bytes(24 * MIB))
    with pytest.raises(TimeoutError, match="cut"):  # and the thread that only listens
        ours.recv_into(memoryview(bytearray(1)))
    ours.close()
    theirs.close()


@pytest.mark.usefixtures("own_network")
def test_who_only_waits_notices_the_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "_IDLE_S", 1)
    monkeypatch.setattr(tcp, "_INTERVAL_S", 1)
    ours, theirs = connections()
    drop_all()
    with pytest.raises(TimeoutError):
        theirs.recv_into(memoryview(bytearray(1)))
    ours.close()
    theirs.close()


def test_a_peer_that_does_not_read_for_long_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "SILENCE_S", 0.5)
    ours, theirs = connections()
    data = bytes(24 * MIB)  # more than the buffers of both sides hold
    sender = threading.Thread(target=ours.sendall, args=(data,))
    sender.start()
    time.sleep(6)  # longer than the silence and the looks after it
    assert sender.is_alive()
    received = bytearray(len(data))
    assert theirs.recv_into(memoryview(received)) == len(data)
    sender.join()
    assert received == data
    ours.close()
    theirs.close()


def test_what_waits_for_an_answer_is_measured() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as ours:
        assert tcp.unanswered_s(ours) == 0.0


@pytest.mark.usefixtures("own_network")
def test_movers_cut_off_from_each_other_fail_cleanly_and_the_next_attempt_goes_on(
    on_line: Any, tmp_path: Path, tell: Any
) -> None:
    (tmp_path / "disk").write_bytes(bytes(range(256)) * 4096 * 60)

    async def story(line: Any) -> None:
        await line.start_target()
        source = await line.source(path=tmp_path / "disk", way="target_listens", settings={"pause_ms": 100})
        await tell(source, m.Progress)
        drop_all()
        with pytest.raises(MoverLost, match="cut"):
            await tell(source, m.DiskDone)
        await asyncio.to_thread(subprocess.run, ["iptables", "-F", "INPUT"], check=True)
        done = await line.back_up(path=tmp_path / "disk", way="target_listens", attempt=2)
        point = (await line.commit(done)).point
        await line.seal()
        await line.restore(point, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == (tmp_path / "disk").read_bytes()

    on_line(story)
