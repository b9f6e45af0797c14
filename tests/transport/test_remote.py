"""Transports on a managed server: a real sshd, an account with nothing but Python, and everything that can go wrong."""

import asyncio
import fcntl
import os
import pwd
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from vbrcore.model.errors import MoverLost, ServerUnreachable, ServerUnsuitable, TransportLost, VbrError
from vbrcore.model.times import Timing
from vbrcore.mover.messages import Log
from vbrcore.secrets.secret import Secret
from vbrcore.testing.sshd import Relay, Sshd
from vbrcore.transport import boot
from vbrcore.transport.bundle import Bundles, platform_of
from vbrcore.transport.client import MoverHandle, TransportClient
from vbrcore.transport.ssh import open_connection
from vbrcore.transport.streams import ChildStream

Gone = Callable[..., bool]
PYTHON = Path(os.path.realpath(sys.executable))
PATH = f"{PYTHON.parent}:/usr/bin:/bin"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    return Bundles(tmp_path_factory.mktemp("home") / "cache")


@pytest.fixture
def sshd(short_path: Path) -> Iterator[Sshd]:
    with Sshd(short_path / "sshd", environment={"PATH": PATH}) as running:
        yield running


@pytest.fixture
def cache(sshd: Sshd) -> Path:
    return sshd.home / ".cache" / "vbrcore"


async def started(
    sshd: Sshd, bundles: Bundles, *, port: int = 0, timing: Timing | None = None
) -> tuple[TransportClient, bool]:
    access = msgspec.structs.replace(sshd.access(), port=port or sshd.port)
    client = TransportClient(timing, server="far")
    connection = await open_connection(access, sshd.secrets, name="far", timing=timing)
    return client, await client.start_remote(connection, bundles, "job-id", "session-id")


async def end_of(mover: MoverHandle) -> None:
    while True:
        await asyncio.wait_for(mover.receive(), 20)


def refused(error: type[VbrError], sshd: Sshd, bundles: Bundles) -> str:
    with pytest.raises(error) as caught:
        asyncio.run(started(sshd, bundles))
    return str(caught.value)


def start_and_end(sshd: Sshd, bundles: Bundles) -> bool:
    """Start a transport and end it; return whether the bundle had to be sent."""

    async def story() -> bool:
        client, sent = await started(sshd, bundles)
        await client.close()
        return sent

    return asyncio.run(story())


def names_in(cache: Path) -> set[str]:
    return {path.name for path in cache.iterdir()}


def test_the_bundle_goes_once_and_nothing_stays_but_it(sshd: Sshd, bundles: Bundles, cache: Path, gone: Gone) -> None:
    async def story() -> tuple[bool, tuple[int, ...]]:
        client, sent = await started(sshd, bundles)
        hello = client.hello
        assert hello.cache_directory == str(cache)
        assert (hello.cores, hello.python) == (len(os.sched_getaffinity(0)), ".".join(map(str, sys.version_info[:3])))
        assert abs(client.clock_offset_s) < 60
        mover = await client.start_mover("source", "job-id", "session-id", "task-id", "disk 'a b'")
        words = Path(f"/proc/{mover.pid}/cmdline").read_text().split("\0")  # noqa: ASYNC240 - of /proc
        assert words[1:5] == ["-I", "-S", str(cache / bundle_of(cache)), "mover"]
        assert words[5:15] == [
            *("--role", "source", "--job-id", "job-id", "--session-id", "session-id"),
            *("--task-id", "task-id", "--disk", "disk 'a b'"),
        ]
        while len(client.stats) < 2:  # noqa: ASYNC110 - that it comes by itself is what is tested
            await asyncio.sleep(0.05)
        transport, child = client.stats
        assert (transport.pid, child.pid, child.parent_pid) == (client.pid, mover.pid, client.pid)
        assert child.memory_bytes > 0
        assert Path(child.log_path).parent == cache / "log"
        await client.close()
        return sent, (transport.pid, child.pid)

    sent, pids = asyncio.run(story())
    assert sent
    assert gone(*pids)
    assert names_in(cache) == {bundle_of(cache), "log"}
    assert list((cache / "log").iterdir()) == []
    assert not start_and_end(sshd, bundles)


def bundle_of(cache: Path) -> str:
    (name,) = (name for name in names_in(cache) if len(name) == 64)
    return name


def test_what_a_login_shell_prints_is_passed_over(sshd: Sshd, bundles: Bundles) -> None:
    (sshd.home / ".bashrc").write_text("printf 'Welcome\\n%s' vbrcore; echo done >&2\n")
    (sshd.home / ".profile").write_text("echo Welcome\n")
    assert start_and_end(sshd, bundles)


def test_an_interrupted_upload_leaves_nothing_and_the_next_one_is_whole(
    sshd: Sshd, bundles: Bundles, cache: Path
) -> None:
    async def story() -> None:
        async with Relay(sshd.port) as relay:
            relay.cut_after_bytes = 1_000_000
            with pytest.raises((ServerUnreachable, TransportLost)):
                await started(sshd, bundles, port=relay.port)

    asyncio.run(story())
    assert start_and_end(sshd, bundles)
    assert not start_and_end(sshd, bundles)
    for path in cache.glob(".new-*"):  # of one that did not see its end yet
        assert path.name != bundle_of(cache)


@pytest.mark.parametrize("what", ["changed", "short", "missing", "manifest", "unlocked"])
def test_a_damaged_bundle_is_never_run_but_sent_again(what: str, sshd: Sshd, bundles: Bundles, cache: Path) -> None:
    assert start_and_end(sshd, bundles)
    place = cache / bundle_of(cache)
    module = place / "vbrcore" / "transport" / "server.py"
    match what:
        case "changed":
            text = module.read_text()
            module.write_text(text.replace("STATS_PERIOD_S = 1.0", "STATS_PERIOD_S = 2.0"))
        case "short":
            os.truncate(module, 100)
        case "missing":
            module.unlink()
        case "manifest":
            (place / boot.MANIFEST).write_text("{}")
        case _:
            (place / ".lock").unlink()
    assert start_and_end(sshd, bundles)
    assert "STATS_PERIOD_S = 1.0" in module.read_text()
    assert names_in(cache) - {"log"} == {place.name}


def test_two_managers_may_come_at_once(sshd: Sshd, bundles: Bundles, cache: Path) -> None:
    async def story() -> None:
        both = await asyncio.gather(started(sshd, bundles), started(sshd, bundles))
        assert all(client.hello.pid for client, _ in both)
        await asyncio.gather(*(client.close() for client, _ in both))

    asyncio.run(story())
    assert names_in(cache) - {"log"} == {bundle_of(cache)}
    assert not start_and_end(sshd, bundles)


def test_older_bundles_go_but_none_that_runs(sshd: Sshd, bundles: Bundles, cache: Path) -> None:
    older = [cache / f"{number:064d}" for number in range(5)]
    for age, path in enumerate(older):
        path.mkdir(parents=True)
        (path / ".lock").touch()
        os.utime(path / ".lock", (1_000_000 - age, 1_000_000 - age))
    left = cache / ".new-1-ab"
    left.mkdir()
    (left / ".lock").touch()
    os.utime(left, (0, 0))
    digest = bundles.bundle_for(platform_of(boot.facts(), "here")).digest
    with (older[4] / ".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        start_and_end(sshd, bundles)
        kept = {older[number].name for number in (0, 1, 4)}
        assert {name for name in names_in(cache) if len(name) == len(digest)} == {digest, *kept}
        assert not left.exists()
    start_and_end(sshd, bundles)
    assert not older[4].exists()


def fake_python(directory: Path, version: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "python3").write_text(f"#!/bin/sh\necho {version}\n")
    (directory / "python3").chmod(0o755)


def test_a_server_without_python_is_named(short_path: Path, bundles: Bundles) -> None:
    (short_path / "bin").mkdir()
    with Sshd(short_path / "sshd", environment={"PATH": str(short_path / "bin")}) as bare:
        assert "has no CPython 3.11 to 3.13 on its PATH: found: none" in refused(ServerUnsuitable, bare, bundles)
        assert not (bare.home / ".cache").exists()


def test_a_python_that_is_too_old_is_named_and_passed_over_for_another(short_path: Path, bundles: Bundles) -> None:
    fake_python(short_path / "bin", "cpython 3 9")
    with Sshd(short_path / "sshd", environment={"PATH": f"{short_path / 'bin'}"}) as old:
        assert "found: python3: cpython 3 9;" in refused(ServerUnsuitable, old, bundles)
        (short_path / "bin" / f"python3.{sys.version_info.minor}").symlink_to(PYTHON)
        assert start_and_end(old, bundles)


def test_a_cache_that_cannot_be_written_is_named(sshd: Sshd, bundles: Bundles) -> None:
    (sshd.home / ".cache").write_text("not a directory")
    text = refused(ServerUnsuitable, sshd, bundles)
    assert "the bundle cannot be kept there" in text
    assert ".cache" in text


def test_the_cache_lies_where_the_account_says(short_path: Path, bundles: Bundles) -> None:
    environment = {"PATH": PATH, "XDG_CACHE_HOME": str(short_path / "elsewhere")}
    with Sshd(short_path / "sshd", environment=environment) as running:
        assert start_and_end(running, bundles)
        assert bundle_of(short_path / "elsewhere" / "vbrcore")
        assert not (running.home / ".cache").exists()


@pytest.mark.parametrize("how", ["cut", "silent"])
def test_movers_end_with_the_connection_and_their_last_lines_are_fetched_later(
    how: str, sshd: Sshd, bundles: Bundles, cache: Path, gone: Gone
) -> None:
    timing = Timing(heartbeat_s=0.2, silence_s=3.0)

    async def story() -> tuple[int, int]:
        async with Relay(sshd.port) as relay:
            client, _ = await started(sshd, bundles, port=relay.port, timing=timing)
            mover = await client.start_mover("source", "job-id", "session-id", "task-id", "disk")
            pids = client.pid, mover.pid
            relay.cut() if how == "cut" else relay.silence()
            with pytest.raises((MoverLost, TransportLost)):
                await end_of(mover)
            assert await asyncio.to_thread(gone, *pids)
            await client.close()
            return pids

    _, mover_pid = asyncio.run(story())
    (left,) = (cache / "log").iterdir()

    async def later() -> None:
        client, _ = await started(sshd, bundles)
        log = await asyncio.wait_for(client.left_logs.get(), 20)
        assert log.name == left.name
        assert log.name.startswith("job-id_session-id_")
        last = [msgspec.json.decode(line, type=Log) for line in log.data.splitlines()][-1]
        assert last.level == "error"
        assert left.exists(), "it is removed when it is kept elsewhere, not before"
        await client.forget_log(log.name)
        while left.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        await client.forget_log("../../../.cache/vbrcore/log")
        await client.close()

    asyncio.run(later())
    assert list((cache / "log").iterdir()) == []
    assert mover_pid


def test_a_transport_of_another_protocol_is_refused() -> None:
    program = (
        "import sys, msgspec, time;"
        "body = msgspec.msgpack.encode({'type': 'Hello', 'protocol': 99, 'version': '9.9', 'python': '', 'pid': 1,"
        " 'cores': 1, 'cache_directory': ''});"
        "sys.stdout.buffer.write(len(body).to_bytes(4, 'big') + body); sys.stdout.flush(); sys.stdin.buffer.read()"
    )

    async def story() -> None:
        client = TransportClient()
        stream = await ChildStream.start([sys.executable, "-c", program])
        with pytest.raises(TransportLost, match=r"protocol 99 of vbrcore 9\.9"):
            await client.attach(stream)

    asyncio.run(story())


def test_a_server_that_says_nonsense_is_refused(short_path: Path, bundles: Bundles) -> None:
    directory = short_path / "bin"
    fake_python(directory, f"cpython 3 {sys.version_info.minor}")
    with Sshd(short_path / "sshd", environment={"PATH": str(directory)}) as running:
        assert "did not start" in refused(TransportLost, running, bundles)


@pytest.fixture
def account(short_path: Path) -> Iterator[str]:
    """Give an account of its own that may do nothing special; needs root, as making accounts does."""
    name = f"vbr{uuid.uuid4().hex[:8]}"
    home = short_path / "user"
    subprocess.run(["useradd", "--create-home", "--home-dir", home, "--shell", "/bin/sh", name], check=True)
    try:
        yield name
    finally:
        subprocess.run(["userdel", "--force", name], check=True, capture_output=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make an account")
@pytest.mark.skipif(shutil.which("python3", path="/usr/bin") is None, reason="the system has no Python for others")
def test_a_bare_account_with_a_password_is_enough(short_path: Path, account: str, bundles: Bundles) -> None:
    password = uuid.uuid4().hex
    subprocess.run(["chpasswd"], input=f"{account}:{password}", text=True, check=True)
    with Sshd(short_path / "sshd", user=account, environment={"PATH": "/usr/bin:/bin"}) as running:

        async def story() -> int:
            connection = await open_connection(running.access("password"), {"password": Secret(password)})
            client = TransportClient(server="far")
            await client.start_remote(connection, bundles, "job-id", "session-id")
            mover = await client.start_mover("target", "job-id", "session-id", "", "")
            owner = Path(f"/proc/{mover.pid}").stat().st_uid  # noqa: ASYNC240
            await client.close()
            return owner

        assert asyncio.run(story()) == pwd.getpwnam(account).pw_uid
        assert (running.home / ".cache" / "vbrcore").stat().st_mode & 0o077 == 0
