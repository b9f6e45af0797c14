"""Who dies, dies alone; who is cut off stops by itself; nobody is left."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from vbrcore.model.errors import MoverLost, TransportLost
from vbrcore.model.times import Timing
from vbrcore.mover.messages import Ended, Endpoint, Failed, Log, Progress, Ready, SourceWork, Stop, TargetWork
from vbrcore.mover.workers import stopped
from vbrcore.plugins.api import SourceSpec
from vbrcore.transport.client import MoverHandle, TransportClient
from vbrcore.transport.messages import ToMover

Gone = Callable[..., bool]


async def start(client: TransportClient) -> MoverHandle:
    await client.start_local("job-id", "session-id")
    return await client.start_mover("source", "job-id", "session-id", "task-id", "disk 1")


def words_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


async def last_words(handle: MoverHandle) -> str:
    try:
        while True:
            await asyncio.wait_for(handle.receive(), 20)
    except (MoverLost, TransportLost) as error:
        return str(error)


def test_ids_role_and_disk_stand_on_the_command_lines(gone: Gone) -> None:
    async def story() -> tuple[int, int]:
        async with TransportClient() as client:
            mover = await start(client)
            while len(client.stats) < 2:  # noqa: ASYNC110 - that it comes by itself is what is tested
                await asyncio.sleep(0.05)
            words = words_of(mover.pid)
            assert words[1:4] == ["-m", "vbrcore", "mover"]
            assert words[4:14] == [
                *("--role", "source", "--job-id", "job-id", "--session-id", "session-id"),
                *("--task-id", "task-id", "--disk", "disk 1"),
            ]
            words = words_of(client.pid)
            assert words[1:5] == ["-m", "vbrcore", "transport", "--stdio"]
            assert words[5:9] == ["--job-id", "job-id", "--session-id", "session-id"]
            own, child = client.stats
            assert (own.pid, own.parent_pid, own.role) == (client.pid, os.getpid(), "transport")
            assert (child.pid, child.parent_pid, child.role) == (mover.pid, client.pid, "source")
            assert (child.task_id, child.disk) == ("task-id", "disk 1")
            assert child.memory_bytes > 1_000_000
            return client.pid, mover.pid

    assert gone(*asyncio.run(story()))


def test_a_killed_mover_is_told_and_the_others_go_on(gone: Gone) -> None:
    async def story() -> None:
        async with TransportClient() as client:
            first = await start(client)
            second = await client.start_mover("source", "j", "s", "t2", "d")
            os.kill(first.pid, signal.SIGKILL)
            assert "-9" in await last_words(first)
            assert first.returncode == -9
            with pytest.raises(MoverLost):
                await first.send(Stop())
            await second.send(Stop())
            assert await second.receive() == Failed(stopped().info())
            third = await client.start_mover("source", "j", "s", "t3", "d")
            await third.kill()
            assert "manager" in await last_words(third)
            assert gone(first.pid, second.pid, third.pid)

    asyncio.run(story())


def test_the_last_words_of_a_dead_mover_are_kept() -> None:
    async def story() -> str:
        async with TransportClient() as client:
            mover = await start(client)
            await client.send(ToMover(1, msgspec.Raw(b"\xa5hello")))
            return await last_words(mover)

    words = asyncio.run(story())
    assert "ended with code 75" in words
    assert "control stream: Expected `object`, got `str`" in words


def test_a_stopped_mover_is_killed_by_its_transport(timing: Timing, gone: Gone) -> None:
    async def story() -> None:
        async with TransportClient(timing) as client:
            mover = await start(client)
            os.kill(mover.pid, signal.SIGSTOP)
            assert "said nothing" in await last_words(mover)
            assert gone(mover.pid)

    asyncio.run(story())


def test_a_stopped_transport_is_lost_and_nothing_of_it_is_left(timing: Timing, gone: Gone) -> None:
    async def story() -> None:
        async with TransportClient(timing) as client:
            mover = await start(client)
            os.kill(client.pid, signal.SIGSTOP)
            assert "silent" in await last_words(mover)
            assert client.lost is not None
            with pytest.raises(TransportLost):
                await client.start_mover("source", "j", "s", "t", "d")
            assert gone(client.pid, mover.pid)

    asyncio.run(story())


def test_a_killed_transport_takes_its_movers_along(gone: Gone) -> None:
    async def story() -> None:
        async with TransportClient() as client:
            mover = await start(client)
            os.kill(client.pid, signal.SIGKILL)
            assert "gone" in await last_words(mover)
            assert gone(client.pid, mover.pid)

    asyncio.run(story())


_MANAGER = """
import asyncio, sys
from vbrcore.model.times import Timing
from vbrcore.transport.client import TransportClient

async def main():
    client = TransportClient(Timing(0.2, 1.5))
    await client.start_local("j", "s")
    movers = [await client.start_mover("source", "j", "s", str(i), "d") for i in range(2)]
    print(client.pid, *(mover.pid for mover in movers), flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_nothing_outlives_its_manager(how: signal.Signals, gone: Gone) -> None:
    with subprocess.Popen([sys.executable, "-c", _MANAGER], stdout=subprocess.PIPE, text=True) as manager:
        assert manager.stdout is not None
        pids = list(map(int, manager.stdout.readline().split()))
        assert len(pids) == 3
        manager.send_signal(how)
        try:
            assert gone(*pids)
        finally:
            manager.kill()


def test_a_mover_that_was_stopped_with_its_transport_writes_nothing(
    timing: Timing, target_work: TargetWork, gone: Gone
) -> None:
    """The transport is stopped and its mover cut off: it holds the chain until it is gone, and then no longer."""

    async def ready(client: TransportClient) -> MoverHandle | None:
        target = await client.start_mover("target", "j", "s", "", "")
        await target.send(target_work)
        while isinstance(message := await target.receive(), Progress | Log):
            pass
        if isinstance(message, Failed):
            assert message.error.code == "chain_locked"
            return None
        assert isinstance(message, Ready)
        return target

    async def story() -> None:
        # A transport that nobody kills: as on another machine, where a manager cannot.
        async with TransportClient(timing) as first, TransportClient(timing) as second:
            await first.start_local("j", "s")
            await second.start_local("j", "s")
            target = await ready(first)
            assert target is not None
            assert first._stream is not None
            first._stream.kill = lambda: None  # type: ignore[method-assign]
            for pid in (target.pid, first.pid):
                os.kill(pid, signal.SIGSTOP)
            assert "silent" in await last_words(target)
            assert await ready(second) is None
            before = snapshot()
            os.kill(target.pid, signal.SIGCONT)
            assert gone(target.pid)
            assert snapshot() == before
            successor = await ready(second)
            assert successor is not None
            await successor.send(Stop())
            while not isinstance(await successor.receive(), Ended):
                pass
            os.kill(first.pid, signal.SIGCONT)
            assert gone(first.pid)

    def snapshot() -> dict[str, bytes]:
        root = Path(target_work.place.path)
        return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}

    asyncio.run(story())


def test_a_mover_refuses_work_of_another_role() -> None:
    async def story() -> object:
        async with TransportClient() as client:
            await client.start_local("j", "s")
            mover = await client.start_mover("target", "j", "s", "", "")
            await mover.send(SourceWork("t", "disk", SourceSpec("p", "r"), Endpoint("", b"")))
            return await mover.receive()

    message = asyncio.run(story())
    assert isinstance(message, Failed)
    assert message.error.code == "protocol_error"
