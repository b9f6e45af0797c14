"""The storages that the tests of the port run on: the twin, and real file systems on loop devices."""

import asyncio
import os
import subprocess
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from vbrcore.model.place import Place
from vbrcore.storage.capabilities import StorageClass
from vbrcore.storage.local import LocalStorage
from vbrcore.storage.port import Storage
from vbrcore.storage.smb import SmbStorage
from vbrcore.testing.memory_storage import MemoryStorage
from vbrcore.testing.smbd import Smbd
from vbrcore.transport.client import TransportClient
from vbrcore.transport.remotestorage import RemoteStorage

T = TypeVar("T")
MIB = 1024 * 1024


class Kind(NamedTuple):
    """A kind of storage. `maker` makes the file system in an image; without one it is mounted without a device.

    `shared`: it is looked at over SMB; `remote`: through a storage mover of another process.
    """

    file_system: str
    storage_class: StorageClass
    maker: tuple[str, ...] = ()
    options: str = ""
    size_bytes: int = 64 * MIB
    alignment_bytes: int = 4096
    shared: bool = False
    remote: bool = False


XFS = ("mkfs.xfs", "-q")
BTRFS = ("mkfs.btrfs", "-q")
KINDS = {
    "ext4": Kind("ext4", "punch", ("mkfs.ext4", "-q")),
    "xfs": Kind("xfs", "clone", (*XFS, "-m", "reflink=1"), size_bytes=320 * MIB),
    "xfs-without-reflink": Kind("xfs", "punch", (*XFS, "-m", "reflink=0"), size_bytes=320 * MIB),
    "xfs-16k": Kind("xfs", "clone", (*XFS, "-b", "size=16k"), size_bytes=512 * MIB, alignment_bytes=16384),
    "btrfs": Kind("btrfs", "clone", BTRFS, size_bytes=256 * MIB),
    "btrfs-compressing": Kind("btrfs", "clone", BTRFS, "compress-force=zstd", 256 * MIB),
    "btrfs-nodatacow": Kind("btrfs", "clone", BTRFS, "nodatacow", 256 * MIB),
    "tmpfs": Kind("tmpfs", "punch"),
    "ramfs": Kind("ramfs", "copy"),
    "vfat": Kind("vfat", "copy", ("mkfs.vfat",)),
    "smb-ext4": Kind("ext4", "punch", ("mkfs.ext4", "-q"), shared=True),
    "smb-ramfs": Kind("ramfs", "copy", shared=True),
    "remote-xfs": Kind("xfs", "clone", (*XFS, "-m", "reflink=1"), size_bytes=320 * MIB, remote=True),
    "memory-clone": Kind("memory", "clone"),
    "memory-punch": Kind("memory", "punch"),
    "memory-copy": Kind("memory", "copy"),
}


def is_known(kind: Kind) -> bool:
    """Say whether the kernel has this file system, or a module of it."""
    if kind.file_system in {*Path("/proc/filesystems").read_text().split(), "memory"}:
        return True
    return not subprocess.run(["modprobe", "--dry-run", kind.file_system], check=False, capture_output=True).returncode


KNOWN = [name for name, kind in KINDS.items() if is_known(kind)]


class Movers:
    """A transport on an event loop in a thread, whose storage movers open places; one at a time is there."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._transport = TransportClient()
        self._opened: RemoteStorage | None = None
        self._do(self._transport.start_local("j", "s"))

    def open(self, place: Place) -> RemoteStorage:
        async def opened() -> RemoteStorage:
            if self._opened is not None:
                await self._opened.close()
            handle = await self._transport.start_mover("storage", "j", "s", "", "")
            return await RemoteStorage.open(handle, place, "", "look")

        self._opened = self._do(opened())
        return self._opened

    def close(self) -> None:
        if self._opened is not None:
            self._do(self._opened.close())
        self._do(self._transport.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)


class FileSystems:
    """Mounts each kind once, when it is first asked for."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._failed: dict[str, str] = {}
        self._mounted: dict[str, Path] = {}
        self._storages = 0
        self._smbd: Smbd | None = None
        self._connected: list[SmbStorage] = []
        self._movers: Movers | None = None

    def storage(self, name: str) -> Storage:
        """Return an empty storage of that kind, or skip the test, saying why."""
        kind = KINDS[name]
        if kind.file_system == "memory":
            return MemoryStorage(storage_class=kind.storage_class, alignment_bytes=kind.alignment_bytes)
        if name not in self._mounted and name not in self._failed:
            self._mount(name, kind)
        if name in self._failed:
            pytest.skip(f"no {name} here: {self._failed[name]}")
        self._storages += 1
        root = self._mounted[name] / str(self._storages)
        root.mkdir()
        if kind.remote:
            return self._remote(root)
        return self._shared(name, root.name) if kind.shared else LocalStorage(root)

    def _remote(self, root: Path) -> RemoteStorage:
        if self._movers is None:
            self._movers = Movers()
        return self._movers.open(Place(str(root)))

    def _shared(self, name: str, directory: str) -> SmbStorage:
        if self._smbd is None:
            self._smbd = Smbd(self._home / "smbd")
            for share, kind in KINDS.items():
                if kind.shared:
                    self._smbd.share(share, self._home / share)
            self._smbd.start()
        while self._connected:  # that of the test before
            self._connected.pop().close()
        self._connected.append(SmbStorage(self._smbd.place(name, directory)))
        return self._connected[-1]

    def unmount(self) -> None:
        for storage in self._connected:
            storage.close()
        if self._smbd is not None:
            self._smbd.kill()
        if self._movers is not None:
            self._movers.close()
        for path in self._mounted.values():
            subprocess.run(["umount", str(path)], check=True)

    def _mount(self, name: str, kind: Kind) -> None:
        if os.geteuid() != 0:
            self._failed[name] = "mounting needs root"
            return
        path = self._home / name
        path.mkdir()
        options = [option for option in (kind.options,) if option]
        device = "vbrtest"
        if kind.maker:
            options.append("loop")
            image = self._home / f"{name}.image"
            with image.open("wb") as file:
                file.truncate(kind.size_bytes)
            subprocess.run([*kind.maker, str(image)], check=True, capture_output=True)
            device = str(image)
        elif kind.file_system == "tmpfs":
            options.append(f"size={kind.size_bytes}")
        command = ["mount", "-t", kind.file_system, "-o", ",".join(options) or "defaults", device, str(path)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            self._failed[name] = done.stderr.strip().partition("\n")[0]
        else:
            self._mounted[name] = path


@pytest.fixture(scope="session")
def file_systems(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileSystems]:
    mounted = FileSystems(tmp_path_factory.mktemp("file-systems"))
    try:
        yield mounted
    finally:
        mounted.unmount()


@pytest.fixture(params=KNOWN)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def storage(kind: Kind, file_systems: FileSystems) -> Storage:
    return file_systems.storage(next(name for name, known in KINDS.items() if known is kind))


@pytest.fixture
def small_mount(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)], check=False)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)
