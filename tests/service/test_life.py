"""How a service is found, started, kept to one per home, and ended."""

import http.client
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Vbr
from tests.service.conftest import wait_for
from vbrcore.api import operations as ops
from vbrcore.api import types as t
from vbrcore.api.client import Client
from vbrcore.api.home import SYSTEM_HOME, Home, find_home
from vbrcore.model.errors import (
    CatalogNewer,
    InvalidValue,
    PermissionRefused,
    ProtocolError,
    ServiceUnavailable,
    VbrError,
)

NOTHING = t.Nothing()


def test_a_question_starts_a_service_and_the_next_finds_it(home: Path, client: Client) -> None:
    first = client.call(ops.SERVICE_SHOW, NOTHING)
    with Client(home, start=False) as other:
        assert other.call(ops.SERVICE_SHOW, NOTHING) == first
    assert not first.installed
    assert stat.S_IMODE((home / "run" / "service.sock").stat().st_mode) == 0o600
    for name in ("catalog.db", "log/service.log"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600


def test_without_starting_nobody_answers(home: Path) -> None:
    with Client(home, start=False) as client, pytest.raises(ServiceUnavailable, match="no service runs"):
        client.call(ops.SERVICE_SHOW, NOTHING)
    assert not list(home.iterdir())


def test_many_clients_at_once_start_one_service(home: Path) -> None:
    pids: list[int] = []

    def ask() -> None:
        with Client(home) as client:
            pids.append(client.call(ops.SERVICE_SHOW, NOTHING).pid)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) == 4
    assert len(set(pids)) == 1


def test_a_second_service_is_refused(vbr: Vbr, client: Client) -> None:
    client.call(ops.SERVICE_SHOW, NOTHING)
    refused = vbr("service", "run", exit_code=18)
    assert "already" in refused.stderr


def test_a_killed_service_leaves_nothing_in_the_way(client: Client) -> None:
    first = client.call(ops.SERVICE_SHOW, NOTHING).pid
    os.kill(first, signal.SIGKILL)
    second = client.call(ops.SERVICE_SHOW, NOTHING).pid
    assert second != first


def test_a_service_that_nobody_needs_ends_and_cleans_up(home: Path) -> None:
    arguments = [sys.executable, "-m", "vbrcore", "service", "run", "--on-demand", "--idle", "0.5"]
    done = subprocess.run([*arguments, "--home", str(home)], check=False, capture_output=True, timeout=60)
    assert done.returncode == 0
    assert sorted(path.name for path in (home / "run").iterdir()) == ["service.lock"]


def test_a_service_in_the_foreground_ends_by_a_signal(vbr: Vbr, home: Path) -> None:
    with vbr.start("service", "run", "--idle", "0.1") as service:
        with Client(home, start=False) as client:
            wait_for((home / "run" / "service.sock").exists, "the socket")
            assert client.call(ops.SERVICE_SHOW, NOTHING).installed
        service.terminate()
        service.communicate()
        assert service.returncode == 0


def test_stopping_ends_it_and_says_so(client: Client, home: Path) -> None:
    pid = client.call(ops.SERVICE_SHOW, NOTHING).pid
    client.call(ops.SERVICE_STOP, t.ServiceStop())
    wait_for(lambda: not (home / "run" / "service.sock").exists(), "the service's end")
    assert client.call(ops.SERVICE_SHOW, NOTHING).pid != pid


@pytest.fixture
def deep_home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vbr-", dir="/tmp") as directory:
        yield Path(directory) / ("a-long-name" * 10) / "home"


def test_a_path_too_long_for_a_socket_is_gone_around(deep_home: Path) -> None:
    with Client(deep_home) as client:
        client.call(ops.SERVICE_SHOW, NOTHING)
        path = Home(deep_home).socket()
        assert path.parent != deep_home / "run"
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        client.call(ops.SERVICE_STOP, t.ServiceStop())
    wait_for(lambda: not path.parent.exists(), "the private directory's end")


def test_a_home_that_others_can_enter_is_refused_unless_it_is_empty(home: Path) -> None:
    home.chmod(0o755)
    Home(home).prepare()
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    home.chmod(0o755)
    with Client(home) as client, pytest.raises(PermissionRefused, match="0755"):
        client.call(ops.SERVICE_SHOW, NOTHING)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_the_home_of_another_user_is_refused(home: Path) -> None:
    os.chown(home, 12345, 12345)
    with Client(home) as client, pytest.raises(PermissionRefused, match="12345"):
        client.call(ops.SERVICE_SHOW, NOTHING)


def test_the_reason_why_a_service_cannot_start_reaches_the_caller(home: Path, client: Client) -> None:
    client.call(ops.SERVICE_STOP, t.ServiceStop())
    wait_for(lambda: not (home / "run" / "service.sock").exists(), "the service's end")
    connection = sqlite3.connect(home / "catalog.db")
    connection.execute("PRAGMA user_version=999")
    connection.close()
    with pytest.raises(CatalogNewer, match="999"):
        client.call(ops.SERVICE_SHOW, NOTHING)


def test_a_wrong_configuration_is_named(home: Path) -> None:
    (home / "service.toml").write_text('[restore]\ndirectories = ["relative"]\n')
    with Client(home) as client, pytest.raises(InvalidValue, match="relative"):
        client.call(ops.SERVICE_SHOW, NOTHING)


_AS_OTHER = """
import http.client, os, sys, urllib.parse
from vbrcore.api import operations, types
from vbrcore.api.client import Client
from vbrcore.model.errors import VbrError
os.setgid(12345); os.setuid(12345)
try:
    print(Client(sys.argv[1], start=False).call(operations.SERVICE_SHOW, types.Nothing()).pid)
except VbrError as error:
    print(error.code)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_told_by_the_kernel_and_refused(home: Path, client: Client) -> None:
    client.call(ops.SERVICE_SHOW, NOTHING)

    def ask_as_other() -> str:
        done = subprocess.run(
            [sys.executable, "-c", _AS_OTHER, str(home)], check=False, capture_output=True, text=True, timeout=60
        )
        return done.stdout.strip() or done.stderr

    assert ask_as_other() == "permission_refused"
    # Even with the file system's rights out of the way:
    home.chmod(0o755)
    (home / "run").chmod(0o755)
    (home / "run" / "service.sock").chmod(0o666)
    assert ask_as_other() == "permission_refused"
    home.chmod(0o700)


def test_homes_are_found_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VBRCORE_HOME", str(tmp_path / "variable"))
    assert find_home(tmp_path / "named").path == tmp_path / "named"
    assert find_home().path == tmp_path / "variable"
    monkeypatch.delenv("VBRCORE_HOME")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert find_home().path == SYSTEM_HOME
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_home().path == tmp_path / ".local/share/vbrcore"


def test_nonsense_gets_an_error_and_not_a_crash(client: Client, home: Path) -> None:
    client.call(ops.SERVICE_SHOW, NOTHING)

    def ask(method: str, path: str, body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("vbrcore")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(home / "run" / "service.sock"))
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    for body in (b"", b"{", b"[]", b'{"name": 1}', b'{"name": "\xff"}', b"x" * 5_000_000):
        status, reply = ask("POST", "/v1/job/run", body)
        assert status == 400
        assert b"invalid_value" in reply
    assert ask("GET", "/v1/sessions?limit=many", b"")[0] == 400
    assert ask("GET", "/v1/nothing", b"")[0] == 404
    assert client.call(ops.SERVICE_SHOW, NOTHING).pid


def test_a_stranger_on_the_socket_is_a_protocol_error(home: Path) -> None:
    Home(home).prepare()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "run" / "service.sock"))
        listener.listen()

        def answer() -> None:
            for _ in range(1):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")

        thread = threading.Thread(target=answer)
        thread.start()
        with Client(home, start=False) as client, pytest.raises(ProtocolError):
            client.call(ops.SERVICE_SHOW, NOTHING)
        thread.join()


def test_errors_are_those_of_the_service(client: Client) -> None:
    with pytest.raises(VbrError) as caught:
        client.call(ops.JOB_RUN, t.ByName("nope"))
    assert caught.value.code == "not_found"
    assert str(caught.value) == "there is no job nope"
