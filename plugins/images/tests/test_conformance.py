"""The images plugin passes the conformance kit, over several image formats."""

import itertools
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from vbrcore.plugins.api import Hypervisor, Plugin
from vbrcore.plugins.loader import load, settings_from
from vbrcore.testing.conformance import HypervisorConformance, MakeMachine

CREATE = {
    "qcow2": ["-f", "qcow2"],
    "vmdk": ["-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"],
    "vhdx": ["-f", "vhdx"],
    "raw": ["-f", "raw"],
}


class Guest:
    """Image files of one format; the guest's writes and the oracle go through QEMU's own tools."""

    def __init__(self, directory: Path, image_format: str, sizes: Sequence[int]) -> None:
        self.name = directory.name
        self._format = image_format
        self._disks = [directory / f"disk{number}.{image_format}" for number in range(len(sizes))]
        directory.mkdir()
        for path, size in zip(self._disks, sizes, strict=True):
            _run("qemu-img", "create", "-q", *CREATE[image_format], str(path), str(size))

    def content(self, disk: int) -> bytes:
        whole = self._disks[disk].parent.parent / "oracle"
        _run("qemu-img", "convert", "-f", self._format, "-O", "raw", str(self._disks[disk]), str(whole))
        content = whole.read_bytes()
        whole.unlink()
        return content

    def write(self, disk: int, offset: int, data: bytes) -> None:
        source = self._disks[disk].parent.parent / "data"
        source.write_bytes(data)
        command = f"write -s {source} {offset} {len(data)}"
        _run("qemu-io", "-f", self._format, "-c", command, str(self._disks[disk]))
        source.unlink()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


class TestImages(HypervisorConformance):
    @pytest.fixture
    def plugin(self) -> Plugin:
        return load("images")

    @pytest.fixture
    def connection(self, plugin: Plugin, tmp_path: Path) -> Iterator[Hypervisor]:
        connection = plugin.connect(settings_from(plugin, {"path": str(tmp_path)}), {}, None)
        yield connection
        connection.close()

    @pytest.fixture(params=list(CREATE))
    def make_machine(self, request: pytest.FixtureRequest, tmp_path: Path) -> MakeMachine:
        numbers = itertools.count()
        return lambda sizes: Guest(tmp_path / f"machine{next(numbers)}", request.param, sizes)
