"""How fast a source may send: the rate is kept, can change meanwhile, and holds nobody back who has to end."""

import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from vbrcore.mover import messages as m
from vbrcore.mover.allowance import Allowance

MIB = 1024 * 1024


def test_without_a_limit_nothing_waits() -> None:
    allowance = Allowance(None)
    for _ in range(1000):
        allowance(2**40)


def test_what_is_let_through_takes_its_time() -> None:
    allowance = Allowance(100_000)
    began = time.monotonic()
    for _ in range(4):
        allowance(10_000)
    assert time.monotonic() - began >= 0.29  # three of four are paid for; never faster, however slow this machine is


def test_who_waits_learns_of_a_new_rate_and_of_the_end() -> None:
    allowance = Allowance(0)
    waiting = threading.Thread(target=allowance, args=(10,))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    allowance.set(1)
    waiting.join()
    again = threading.Thread(target=allowance, args=(10,))  # ten seconds at this rate
    again.start()
    allowance.end()
    again.join()


def test_a_source_keeps_to_what_it_is_told_while_it_sends(on_line: Any, tmp_path: Path, tell: Any) -> None:
    (tmp_path / "disk").write_bytes(bytes(range(256)) * 4096 * 4)

    async def story(line: Any) -> None:
        await line.start_target()
        endpoint = await line.expect("task", 1, "socket")
        held = msgspec.structs.replace(endpoint, rate_bytes_s=0)
        line.expect = lambda *_: _now(held)
        source = await line.source(path=tmp_path / "disk")
        for _ in range(2):
            assert (await tell(source, m.Progress)).totals.transferred_bytes == 0
        await source.send(m.SetRate(None))
        assert (await tell(source, m.DiskDone)).size_bytes == 4 * MIB

    on_line(story)


async def _now(endpoint: m.Endpoint) -> m.Endpoint:
    return endpoint
