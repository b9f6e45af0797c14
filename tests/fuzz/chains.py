"""Chains to be spoilt: small, made by the product, one of each shape, with all that is known of them."""

import functools
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from vbrcore.backupfile.codec import digest
from vbrcore.backupfile.contents import Damage, KeySlot
from vbrcore.backupfile.encryption import ChainKey
from vbrcore.backupfile.file import open_file
from vbrcore.backupfile.filewriter import FileWriter
from vbrcore.backupfile.maps import PageBuilder
from vbrcore.backupfile.rows import KIND_BLOCK, KIND_CONFIGURATION, KIND_PAGE
from vbrcore.backupfile.sealedpoints import seal_point
from vbrcore.chain.reader import ChainReader
from vbrcore.chain.writer import SEND, ChainWriter
from vbrcore.model.point import Point, PointDisk
from vbrcore.mover.messages import ChainSecret
from vbrcore.mover.sealing import SealedStoring
from vbrcore.mover.storing import Storing
from vbrcore.secrets.keyslots import add_keyfile_slot
from vbrcore.secrets.secret import SecretBytes
from vbrcore.storage.capabilities import StorageClass
from vbrcore.testing import chain_kit as kit
from vbrcore.testing.memory_storage import MemoryStorage

Image = dict[int, bytes]  # block index to content; what is absent is a hole
KEY_FILE = bytes(range(64))
SHORT = kit.size_of(2) + 513


@dataclass
class Chain:
    """`images` by point id and number of the disk; `contents` by digest: all that maps of the chain may name."""

    shape: str
    files: dict[str, bytes] = field(default_factory=dict)
    images: dict[tuple[str, int], Image] = field(default_factory=dict)
    points: dict[str, Point] = field(default_factory=dict)
    contents: dict[bytes, bytes] = field(default_factory=dict)
    chain_key: ChainKey | None = None
    key_slots: tuple[KeySlot, ...] = ()

    def copy(self) -> "Chain":
        """Return one whose model may grow."""
        model = {"images": dict(self.images), "points": dict(self.points), "contents": dict(self.contents)}
        return replace(self, **model)  # type: ignore[arg-type]


class Sender:
    """Sends disks as a source mover does, to an open or an encrypted chain, and notes in the model what was sent."""

    def __init__(self, chain: Chain, writer: ChainWriter) -> None:
        self._chain = chain
        self._writer = writer
        key, chain_id = chain.chain_key, writer.chain.chain_id
        self._storing = Storing() if key is None else SealedStoring(ChainSecret(chain_id, key.reveal()))
        self._open = Storing()

    def point(self, *disks: tuple[Image, int], machine: str = "m1") -> Point:
        """Commit a point of disks (image, size in bytes); return it as it was sent, not sealed."""
        sent = [self._disk(f"d{number}", image, size) for number, (image, size) in enumerate(disks)]
        configuration = self._send(f"<machine {machine}>".encode(), KIND_CONFIGURATION)
        point = kit.point_of(*sent, machine=machine, configuration=configuration)
        key = self._chain.chain_key
        committed = point if key is None else seal_point(point, key, self._writer.chain.chain_id)
        self._chain.points[point.point_id] = point
        for number, (image, _) in enumerate(disks):
            self._chain.images[point.point_id, number] = image
        self._writer.commit_point(committed)
        return point

    def _disk(self, name: str, image: Image, size_bytes: int) -> PointDisk:
        builder = PageBuilder(size_bytes, kit.BLOCK)
        pages = []
        for index in sorted(image):
            pages += builder.add_holes(index - builder.position)
            pages += builder.add(self._send(image[index], KIND_BLOCK))
        rest, root = builder.finish()
        for _, page in [*pages, *rest]:
            self._send(page, KIND_PAGE)
        return PointDisk(name, name, size_bytes, root)

    def _send(self, data: bytes, kind: int) -> bytes:
        storing = self._open if kind == KIND_PAGE else self._storing
        name = storing.digest(data)
        self._chain.contents[name] = data
        if self._writer.lookup([name], 1)[0] == SEND:
            row, stored = storing.store(name, memoryview(data), kind, 1)
            self._writer.append(row, stored, 1)
        return name


class _Maker:
    """Makes one chain, run by run."""

    def __init__(self, shape: str, storage_class: StorageClass, home: Path) -> None:
        self.chain = Chain(shape)
        self.storage = MemoryStorage(storage_class=storage_class)
        self._index = home
        self._runs = 0
        self.writer: ChainWriter

    def open(self) -> Sender:
        encrypted = self.chain.chain_key is not None
        self._runs += 1
        session_id = f"{self._runs:08}"  # so that the files have the same names each time
        self.writer = kit.open_writer(self.storage, self._index, session_id, encrypt=encrypted)
        if self.chain.chain_key is not None and not self.writer.chain.key_slots:
            slot = add_keyfile_slot(self.chain.chain_key, SecretBytes(KEY_FILE), self.writer.chain.chain_id)
            self.writer.set_key_slots((slot,))
            self.chain.key_slots = (slot,)
        return Sender(self.chain, self.writer)

    def finished(self) -> Chain:
        """Note the files. What was forgotten stays in the model: it may come back, and rightly."""
        storage = self.storage
        self.chain.files = {name: bytes(storage.file(name)) for name in storage.list("") if name.endswith(".vbf")}
        return self.chain


def _increments(maker: _Maker) -> None:
    """Several machines and disks, a short last block, a forgotten point, gone rows, a mark of damage, no seal."""
    image = {0: kit.content(1), 1: kit.content(2), 300: kit.content(3)}
    sender = maker.open()
    first = sender.point((image, kit.size_of(301))).point_id
    sender.point(({0: kit.content(2), 2: kit.content(4, 513)}, SHORT), ({}, kit.size_of(9)), machine="m2")
    maker.writer.seal()
    sender = maker.open()
    sender.point((image | {1: kit.content(5)}, kit.size_of(301)), ({3: kit.content(6)}, kit.size_of(4)))
    maker.writer.seal()
    sender = maker.open()
    maker.writer.forget([first])
    maker.writer.give_back("punch", force=True)
    maker.writer.seal()
    _mark_damaged(maker.storage, kit.content(6))
    sender = maker.open()
    sender.point((image | {1: kit.content(7), 299: kit.content(1)}, kit.size_of(301)))
    sender.point(({0: kit.content(8)}, SHORT), machine="m2")
    maker.writer.close()


def _mark_damaged(storage: MemoryStorage, content: bytes) -> None:
    """As a health check does."""
    with ChainReader.open(storage, kit.DIRECTORY) as reader:
        location = reader.find(digest(content))
        assert location is not None
    for name in storage.list(kit.DIRECTORY + "/"):
        if name.endswith(".vbf") and digest(content) in bytes(storage.file(name)):
            file = open_file(storage, name)
            writer = FileWriter.modify(storage, file, lambda: None)
            mark = Damage(digest(content), location.offset)
            writer.commit(msgspec.structs.replace(file.contents, damaged=(mark,)), file.gone, both=True)
            writer.close()


def _fulls(maker: _Maker) -> None:
    """Two generations, the later one synthetic, and files without points that still hold extents."""
    image = {index: kit.content(10 + index) for index in range(4)}
    points = []
    for run in range(3):
        sender = maker.open()
        points.append(sender.point((image | {run: kit.content(20 + run)}, kit.size_of(5))).point_id)
        maker.writer.seal()
    maker.open()
    maker.writer.forget(points[:2])
    maker.writer.give_back("clone", force=True)
    maker.writer.synthetic_full("clone")
    maker.writer.seal()
    sender = maker.open()
    sender.point((image | {0: kit.content(30)}, kit.size_of(5)))
    maker.writer.seal()


def _encrypted(maker: _Maker) -> None:
    maker.chain.chain_key = ChainKey(bytes(range(32)))
    image = {0: kit.content(1), 1: kit.content(2)}
    for run in range(2):
        sender = maker.open()
        sender.point((image | {1: kit.content(40 + run)}, kit.size_of(3)), ({0: kit.content(9)}, SHORT))
        maker.writer.seal()


SHAPES = {"increments": _increments, "fulls": _fulls, "encrypted": _encrypted}


@functools.cache
def chain_of(shape: str) -> Chain:
    """Return a chain of that shape, the same object at each call: it is not to be changed."""
    with tempfile.TemporaryDirectory() as home:
        maker = _Maker(shape, "clone", Path(home))
        SHAPES[shape](maker)
        return maker.finished()
