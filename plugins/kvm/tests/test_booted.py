"""A guest that runs and writes: all disks from one moment, and frozen by its agent when asked."""

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MIB = 1 << 20
SCRIPT = Path(__file__).parents[3] / "script" / "tiny-guest"
AGENT = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"


@pytest.fixture(scope="module")
def booted(make_guest: Callable[[], Any]) -> Any:
    guest = make_guest()
    subprocess.run([str(SCRIPT), str(guest.directory)], check=True, timeout=60)
    guest.add_disk("vda", "qcow2", 64 * MIB)
    guest.add_disk("vdb", "qcow2", 64 * MIB)
    console = guest.directory / "console"
    console.touch()
    guest.define(
        f"{AGENT}<serial type='file'><source path='{console}'/></serial>",
        f"<kernel>{guest.directory / 'kernel'}</kernel><initrd>{guest.directory / 'initramfs'}</initrd>"
        "<cmdline>console=ttyS0 quiet panic=-1</cmdline>",
    )
    guest.domain.create()
    wait_for_writes(guest, 3)
    # An agent that comes or goes while a backup job runs stops libvirt's event thread for 30 s, and with it the end of
    # the job. That is survived (see docs/kvm.md), but this test need not wait for it.
    wait_until(lambda: "state='connected'" in guest.domain.XMLDesc(0), "the agent answers")
    return guest


def console_of(guest: Any) -> str:
    return str((guest.directory / "console").read_text(encoding="utf-8", errors="replace"))


def wait_for_writes(guest: Any, more: int) -> None:
    """Wait until the guest has written `more` numbers from now on."""
    wanted = console_of(guest).count("wrote") + more
    wait_until(lambda: console_of(guest).count("wrote") >= wanted, "the guest writes")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def newest(image: bytearray) -> int:
    return max(int(number) for number in re.findall(rb"number (\d+)\n", image[MIB : 2 * MIB]))


def test_all_disks_are_from_one_moment(booted: Any, make_line: Callable[..., Any]) -> None:
    line = make_line(booted)
    for _ in range(3):
        snapshot = line.point()
        assert newest(line.image["vda"]) - newest(line.image["vdb"]) in {0, 1}
        assert snapshot.warnings == ()
        wait_for_writes(booted, 2)
    assert snapshot.disks[0].since
    assert 0 < line.read_bytes["vda"] < 2 * MIB


def test_a_guest_with_an_agent_is_frozen_for_a_moment(booted: Any, make_line: Callable[..., Any]) -> None:
    line = make_line(booted)
    plan, snapshot = line.take(quiesce=True)
    wait_for_writes(booted, 2)  # it goes on while it is read
    line.read(snapshot)
    line.commit(plan, snapshot)
    assert snapshot.warnings == ()
    assert newest(line.image["vda"]) == newest(line.image["vdb"])
    lines = console_of(booted).splitlines()
    frozen, thawed = lines.index("frozen"), lines.index("thawed")
    assert not [one for one in lines[frozen:thawed] if one.startswith("wrote")]
