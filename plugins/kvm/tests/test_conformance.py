"""The kvm plugin passes the conformance kit: with a running machine, and with one that is off."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from vbrcore.plugins.api import Hypervisor, Plugin
from vbrcore.plugins.loader import load, settings_from
from vbrcore.testing.conformance import HypervisorConformance, MachineUnderTest, MakeMachine

IMAGES = Path("/var/lib/libvirt/images")


class Machine:
    """A guest of the tests as the kit sees it: disks by number."""

    def __init__(self, guest: Any) -> None:
        self.guest = guest
        self.name: str = guest.name

    def content(self, disk: int) -> bytes:
        content: bytes = self.guest.content(self.guest.disks[disk][0])
        return content

    def write(self, disk: int, offset: int, data: bytes) -> None:
        self.guest.write_data(self.guest.disks[disk][0], offset, data)


class Kvm(HypervisorConformance):
    @pytest.fixture
    def plugin(self) -> Plugin:
        return load("kvm")

    @pytest.fixture
    def connection(self, plugin: Plugin, scratch: Path) -> Iterator[Hypervisor]:
        opened = plugin.connect(settings_from(plugin, {"scratch_directory": str(scratch)}), {}, None)
        yield opened
        opened.close()
        shutil.rmtree(scratch, ignore_errors=True)

    @pytest.fixture(scope="class")
    @classmethod
    def machine(cls, make_guest: Callable[[], Any]) -> Machine:
        """One machine for all tests: they look at what is there, and libvirt takes seconds to end one."""
        guest = make_guest()
        for number, size in enumerate(cls.sizes):
            guest.add_disk(f"vd{chr(ord('a') + number)}", "qcow2", size)
        guest.define()
        return Machine(guest)

    @pytest.fixture
    def make_machine(self, machine: Machine) -> Iterator[MakeMachine]:
        def make(sizes: Sequence[int]) -> MachineUnderTest:
            assert list(sizes) == list(self.sizes)
            self.prepare(machine.guest)
            return machine

        yield make
        restored = f"{machine.name}-restored"
        machine.guest.remove_domain(machine.guest.connection, restored)
        for path in IMAGES.glob(f"{restored}*"):
            path.unlink()

    def prepare(self, guest: Any) -> None:
        guest.reset()


class TestRunning(Kvm):
    pass


class TestOff(Kvm):
    def prepare(self, guest: Any) -> None:
        assert not guest.domain.isActive()

    def test_l2_changes_cover_the_true_difference(self, *_: object) -> None:
        """A machine that is off has no tracking, and says so by capability only where it was expected."""
        pytest.skip("no QEMU runs for a machine that is off, so no change tracking of it can be had")
