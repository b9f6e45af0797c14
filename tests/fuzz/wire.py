"""Targets: what other processes and people put before us: pins, identity files, data frames, control messages."""

import asyncio
import functools
import io
import random
import shutil
import socket
import struct
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from tests.fuzz.chains import chain_of
from tests.fuzz.oracle import Wrong, typed
from tests.fuzz.spoil import hostile_bytes, hostile_json, hostile_number
from vbrcore.backupfile.codec import checksum, digest
from vbrcore.backupfile.rows import Row
from vbrcore.chain.mark import mark
from vbrcore.chain.pins import Pinned, read_pins
from vbrcore.model.errors import BlocksMissing, ProtocolError
from vbrcore.model.foreign import UNDECODABLE
from vbrcore.model.place import Place
from vbrcore.mover import control, frames, messages
from vbrcore.storage.repository import IDENTITY_NAME, read_identity
from vbrcore.testing import chain_kit as kit
from vbrcore.testing.memory_storage import MemoryStorage
from vbrcore.transport import frames as transport_frames
from vbrcore.transport import messages as transport_messages

_IDENTITY = b'{"format":"vbrcore repository","version":1,"repository_id":"r1"}'


def pins(random: random.Random) -> None:
    """What a pin that is held says is refused, or can be marked as the writer marks it."""
    point = next(iter(chain_of("increments").points.values()))
    text = hostile_json(random, msgspec.json.encode(Pinned(point, "00" * 16)))
    storage = MemoryStorage()
    name = f"{kit.DIRECTORY}/pin-0.json"
    storage.files[name] = bytearray(text)
    storage.lock(name)
    found = typed(lambda: read_pins(storage, kit.DIRECTORY)) or ()

    def nothing(name: bytes) -> bytes:
        raise BlocksMissing(f"there is no {name.hex()}")

    typed(lambda: mark([pinned.point for pinned in found], nothing, 1))
    if storage.list(name) != (name,):
        raise Wrong("a pin that is held was removed")


def identity(random: random.Random) -> None:
    """A repository's identity is what its file says, or there is none."""
    home = Path(tempfile.mkdtemp(prefix="vbr-fuzz-"))
    try:
        text = random.choice((hostile_json(random, _IDENTITY), hostile_bytes(random, _IDENTITY), b"[" * 60000))
        (home / IDENTITY_NAME).write_bytes(text)
        found = typed(lambda: read_identity(home))
        if found is not None and (found.format != "vbrcore repository" or found.version > 1):
            raise Wrong(f"an identity of something else: {found}")
    finally:
        shutil.rmtree(home)


def _frame(random: random.Random) -> bytes:
    """Return one frame of a source or target, its head right or not."""
    row = Row(digest(b"x"), 9, 9, 0, random.choice((0, 1, 2)), 1)
    kind, meta, payload = random.choice(
        (
            (frames.HELLO, msgspec.msgpack.encode(frames.Hello(1, "t", b"s")), b""),
            (frames.ASK, frames.pack_ask(1, [row.digest] * 3), b""),
            (frames.BLOCK, frames.pack_block(row), b"123456789"),
            (frames.PAGE, row.digest, b""),
            (frames.ANSWER, frames.pack_answer(1, b"\0\1\2"), b""),
            (frames.REFUSED, frames.pack_error(ProtocolError("no").info()), b""),
        )
    )
    if random.randrange(2):
        meta = hostile_bytes(random, meta)
    lengths = [len(meta), len(payload)]
    if random.randrange(3) == 0:
        lengths[random.randrange(2)] = hostile_number(random, len(meta), 32)
    kind = random.choice((kind, kind, kind, random.randrange(256)))
    data = struct.pack("<B3xIIQ", kind, *lengths, checksum(bytes((kind,)) + meta)) + meta + payload
    return hostile_bytes(random, data) if random.randrange(3) == 0 else data


def data_frames(random: random.Random) -> None:
    """The data connection's frames: both ends take what they understand and refuse the rest."""
    ours, theirs = socket.socketpair()
    stream = frames.DataStream(ours)
    try:
        theirs.sendall(b"".join(_frame(random) for _ in range(random.randint(1, 3))))
        theirs.close()
        while (frame := typed(stream.receive)) is not None:
            _take(frame)
            stream.payload_into(memoryview(bytearray(min(frame.payload_bytes, 1 << 20))))
    except ProtocolError:
        pass
    finally:
        theirs.close()
        stream.close()


def _take(frame: frames.Frame) -> None:
    typed(lambda: frames.unpack_ask(frame.meta))
    typed(lambda: frames.unpack_answer(frame.meta))
    row = typed(lambda: frames.unpack_block(frame.meta, frame.payload_bytes))
    if row is not None and row.stored_length != frame.payload_bytes:
        raise Wrong("a block of another length than its frame")


@functools.cache
def _messages() -> tuple[tuple[bytes, Any], ...]:
    """Return messages of each direction, with the type that they are read as."""
    point = next(iter(chain_of("encrypted").points.values()))
    slots = chain_of("encrypted").key_slots
    encode = msgspec.msgpack.encode
    to_mover = (
        messages.TargetWork(Place("/r"), "r1", None, "job", "j1", "nightly", "s1", 1.0, 1 << 20, "/i"),
        messages.UseKeySlots(slots),
        messages.ExpectTask(
            "t", 1, messages.Endpoint("", bytes(32), "::1", (1, 2), True, messages.Proof(b"c", b"k", b"p"))
        ),
        messages.SetRate(1000),
        messages.CommitPoint(point),
        messages.RestoreWork("t", Place("/r"), "r1", "job", point.point_id, "d0"),
        messages.UseKey(messages.ChainSecret(bytes(16), bytes(32))),
    )
    from_mover = (
        messages.ChainPoints((point,)),
        messages.Ready("/s", (bytes(32),)),
        messages.Listening("t", 46200, 1),
        messages.Log(1.0, "info", "x"),
        messages.KeyWanted(bytes(16), slots),
    )
    relayed = (transport_messages.StartMover(1, "source", "j1", "s1", "t", "d0"), transport_messages.Ping())
    return (
        *((encode(message), messages.ToMover) for message in to_mover),
        *((encode(message), messages.FromMover) for message in from_mover),
        *((encode(message), transport_messages.ToTransport) for message in relayed),
    )


def control_messages(random: random.Random) -> None:
    """Control frames and their messages: whole, or an error that ends the connection in order."""
    body, kind = random.choice(_messages())
    body = random.choice((hostile_bytes(random, body), b"\x91" * 50000, b"\xdf\xff\xff\xff\xff" + body))
    try:
        message = msgspec.msgpack.decode(body, type=kind)
    except UNDECODABLE:
        message = None
    if message is not None and msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=kind) != message:
        raise Wrong("a message that is another when it is sent on")
    data = len(body).to_bytes(4, "big") + body
    data = hostile_bytes(random, data) if random.randrange(2) else data
    first = typed(lambda: control.read_frame(io.BytesIO(data)))  # type: ignore[arg-type]
    second = asyncio.run(_read(data))
    if first != second:
        raise Wrong("both readers of control frames must agree")


async def _read(data: bytes) -> bytes | None:
    reader = asyncio.StreamReader(limit=1 << 25)
    reader.feed_data(data)
    reader.feed_eof()
    try:
        return await transport_frames.read_frame(reader)
    except ProtocolError:
        return None
