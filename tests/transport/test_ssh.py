"""Logging in to a managed server: only the pinned host key, only the way that was named; and the small helpers."""

import asyncio
import signal
import socket
import subprocess
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from vbrcore.model.errors import (
    CommandFailed,
    HostKeyChanged,
    InvalidValue,
    LoginRefused,
    ServerUnreachable,
    VbrError,
)
from vbrcore.secrets.secret import Secret
from vbrcore.testing.sshd import Sshd, free_port
from vbrcore.transport.ssh import SshConnection, fingerprint, open_connection, probe_host_key

T = TypeVar("T")


def over(sshd: Sshd, story: Callable[[SshConnection], Awaitable[T]]) -> T:
    async def run() -> T:
        async with await open_connection(sshd.access(), sshd.secrets, name="far") as connection:
            return await story(connection)

    return asyncio.run(run())


def refused(error: type[VbrError], sshd: Sshd, **changes: object) -> str:
    access = msgspec.structs.replace(sshd.access(), **changes)
    with pytest.raises(error) as caught:
        asyncio.run(open_connection(access, sshd.secrets, name="far"))
    return str(caught.value)


def test_a_command_gets_its_input_and_its_result_comes_back(sshd: Sshd) -> None:
    result = over(sshd, lambda connection: connection.run("xargs -0 printf '<%s>'; exit 3", b"a b\0$(id)\0'\0"))
    assert (result.exit_code, result.stdout) == (3, b"<a b><$(id)><'>")
    with pytest.raises(CommandFailed, match="listing: ended with code 3"):
        msgspec.structs.replace(result, stdout=b"").checked("listing")


def test_a_command_that_does_not_end_is_ended(sshd: Sshd) -> None:
    with pytest.raises(CommandFailed, match="did not end within"):
        over(sshd, lambda connection: connection.run("exec sleep 1000", timeout_s=0.3))


def test_small_files_go_and_come(sshd: Sshd) -> None:
    path = str(sshd.home / "a file")

    async def story(connection: SshConnection) -> None:
        assert await connection.stat(path) is None
        await connection.put(path, b"x" * 100_000, mode=0o640)
        await connection.put(path, b"y" * 200_000, mode=0o640)
        facts = await connection.stat(path)
        assert facts is not None
        assert (facts.size_bytes, facts.mode & 0o777) == (200_000, 0o640)
        assert await connection.get(path) == b"y" * 200_000
        with pytest.raises(CommandFailed, match="longer than 10 bytes"):
            await connection.get(path, max_bytes=10)
        with pytest.raises(CommandFailed, match="/nowhere/file"):
            await connection.get("/nowhere/file")

    over(sshd, story)
    assert [path.name for path in sshd.home.iterdir()] == ["a file"]


def test_a_socket_is_forwarded(sshd: Sshd) -> None:
    local, remote = sshd.directory / "here.sock", sshd.directory / "there.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(remote))
        listener.listen()

        def echo() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.sendall(peer.recv(100).upper())

        thread = threading.Thread(target=echo)
        thread.start()

        async def story(connection: SshConnection) -> bytes:
            async with connection.forwarded(local, str(remote)):
                reader, writer = await asyncio.open_unix_connection(str(local))
                writer.write(b"hello")
                answer = await reader.read(100)
                writer.close()
                return answer

        assert over(sshd, story) == b"HELLO"
        thread.join()
    assert not local.exists()


def test_the_host_key_is_shown_before_it_is_pinned(sshd: Sshd) -> None:
    line = asyncio.run(probe_host_key("127.0.0.1", sshd.port))
    assert line == sshd.host_key
    printed = subprocess.run(
        ["ssh-keygen", "-l", "-f", sshd.directory / "host_key.pub"], check=True, capture_output=True, text=True
    ).stdout
    assert fingerprint(line) == printed.split()[1]


def test_another_host_key_is_refused_and_both_are_named(sshd: Sshd) -> None:
    pinned = sshd.access()
    sshd.new_host_key()
    text = refused(HostKeyChanged, sshd, host_key=pinned.host_key)
    assert fingerprint(pinned.host_key) in text
    assert fingerprint(sshd.host_key) in text
    assert not HostKeyChanged.retryable


def test_a_host_key_of_another_kind_is_refused_as_well(sshd: Sshd, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", tmp_path / "other"], check=True)
    pinned = (tmp_path / "other.pub").read_text()
    text = refused(HostKeyChanged, sshd, host_key=pinned)
    assert fingerprint(pinned) in text
    assert fingerprint(sshd.host_key) in text


def test_what_is_no_host_key_is_named(sshd: Sshd) -> None:
    assert "'nonsense'" in refused(InvalidValue, sshd, host_key="nonsense")


def test_a_wrong_login_is_refused_and_says_whose(sshd: Sshd, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "words", "-f", tmp_path / "locked"], check=True)
    for access, secrets, words in (
        (sshd.access("password"), {"password": Secret("wrong")}, "by password"),
        (sshd.access("password"), {}, "its password is not in the catalog"),
        (sshd.access(), {"identity": Secret((tmp_path / "other").read_text())}, "by identity"),
        (sshd.access(), {"identity": Secret((tmp_path / "locked").read_text())}, "no private key that can be used"),
        (sshd.access(), {"identity": Secret("nonsense")}, "no private key that can be used"),
    ):
        with pytest.raises(LoginRefused, match=words) as caught:
            asyncio.run(open_connection(access, secrets, name="far"))
        assert "wrong" not in str(caught.value)


def test_an_agent_logs_in_and_its_lack_is_named(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    access = sshd.access("agent")
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(LoginRefused, match="SSH_AUTH_SOCK"):
        asyncio.run(open_connection(access, {}))
    path = str(sshd.directory / "agent")
    monkeypatch.setenv("SSH_AUTH_SOCK", path)
    with pytest.raises(LoginRefused, match="does not answer"):
        asyncio.run(open_connection(access, {}))
    with subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        agent.stdout.readline()
        subprocess.run(["ssh-add", "-q", sshd.directory / "identity"], check=True, stderr=subprocess.DEVNULL)

        async def story() -> bytes:
            async with await open_connection(access, {}) as connection:
                return (await connection.run("printf here")).stdout

        assert asyncio.run(story()) == b"here"
        agent.send_signal(signal.SIGTERM)


def test_nobody_there_is_said_and_worth_another_try(sshd: Sshd) -> None:
    port = free_port()
    assert f"127.0.0.1 port {port}" in refused(ServerUnreachable, sshd, port=port)
    assert "no-such-host.invalid" in refused(ServerUnreachable, sshd, host="no-such-host.invalid")
    with pytest.raises(ServerUnreachable):
        asyncio.run(probe_host_key("127.0.0.1", port))
    assert ServerUnreachable.retryable


def test_a_connection_that_is_gone_is_said(sshd: Sshd) -> None:
    async def story(connection: SshConnection) -> None:
        await connection.close()
        with pytest.raises(ServerUnreachable, match="the connection is gone"):
            await connection.run("true")
        with pytest.raises(ServerUnreachable):
            await connection.put(str(sshd.home / "x"), b"")

    over(sshd, story)
