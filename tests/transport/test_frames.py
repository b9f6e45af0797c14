import asyncio
import io

import pytest

from vbrcore.model.errors import ProtocolError
from vbrcore.mover.control import MAX_FRAME_BYTES, frame_of, read_frame
from vbrcore.transport import frames


class Trickle(io.RawIOBase):
    """A pipe that gives little at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        part, self._data = self._data[:3], self._data[3:]
        part, self._data = part[: len(buffer)], part[len(buffer) :] + self._data
        buffer[: len(part)] = part
        return len(part)

    def readable(self) -> bool:
        return True


@pytest.mark.parametrize("body", [b"", b"x", b"y" * 10_000])
def test_both_forms_read_what_is_written(body: bytes) -> None:
    assert read_frame(Trickle(frame_of(body))) == body

    async def story() -> bytes | None:
        reader = asyncio.StreamReader()
        reader.feed_data(frame_of(body))
        return await frames.read_frame(reader)

    assert asyncio.run(story()) == body


@pytest.mark.parametrize("cut", [0, 1, 3, 4, 7])
def test_a_cut_stream_is_an_end(cut: int) -> None:
    data = frame_of(b"12345")[:cut]
    assert read_frame(Trickle(data)) is None

    async def story() -> bytes | None:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await frames.read_frame(reader)

    assert asyncio.run(story()) is None


def test_lengths_are_bounded_before_memory_is_taken() -> None:
    header = (MAX_FRAME_BYTES + 1).to_bytes(4, "big")
    with pytest.raises(ProtocolError):
        read_frame(Trickle(header))
    with pytest.raises(ProtocolError):
        frame_of(bytes(MAX_FRAME_BYTES + 1))
