"""Digests, checksums and compression of extents. Every function gives the GIL back on block-sized input."""

import threading

import xxhash
import zstandard
from blake3 import blake3

from vbrcore.model.errors import DataCorrupt, FormatNewer

Buffer = bytes | bytearray | memoryview

CODEC_NONE = 0
CODEC_ZSTD = 1
DIGEST_BYTES = 32
ZERO_DIGEST = bytes(DIGEST_BYTES)

_local = threading.local()


def digest(data: Buffer) -> bytes:
    """Return the BLAKE3-256 of `data` (32 bytes): the name of a block or page."""
    return blake3(data).digest()


def checksum(data: Buffer) -> int:
    """Return the xxh3-64 (seed 0) of `data`: guards stored bytes against bit rot and broken wires."""
    return xxhash.xxh3_64_intdigest(data)


def compress(data: Buffer, level: int) -> bytes:
    """Return `data` as one zstd frame that states its content size. Contexts are kept per thread and level."""
    compressors: dict[int, zstandard.ZstdCompressor] = _local.__dict__.setdefault("compressors", {})
    compressor = compressors.get(level)
    if compressor is None:
        compressor = zstandard.ZstdCompressor(level=level, write_checksum=False, write_content_size=True)
        compressors[level] = compressor
    return compressor.compress(data)


def decompress(stored: Buffer, raw_length: int, codec: int) -> bytes | memoryview:
    """Return the `raw_length` bytes that `stored` holds; never takes more memory than that.

    With `CODEC_NONE` the result is `stored` itself. Raises `DataCorrupt`, or `FormatNewer` for a codec unknown here.
    """
    if codec == CODEC_NONE:
        if len(stored) != raw_length:
            raise DataCorrupt(f"an uncompressed extent has {len(stored)} bytes instead of {raw_length}")
        return memoryview(stored)
    if codec != CODEC_ZSTD:
        raise FormatNewer(f"codec {codec} is not known to this version")
    try:
        # The frame's own size field decides what the library allocates, so it is compared first.
        if zstandard.frame_content_size(stored) != raw_length:
            raise DataCorrupt("a compressed extent states another size than its row")
        raw = _decompressor().decompress(stored, max_output_size=raw_length)
    except zstandard.ZstdError as error:
        raise DataCorrupt(f"a compressed extent cannot be decompressed: {error}") from error
    if len(raw) != raw_length:
        raise DataCorrupt(f"an extent decompresses to {len(raw)} bytes instead of {raw_length}")
    return raw


def decompress_into(stored: Buffer, raw: memoryview, codec: int) -> None:
    """Fill all of `raw` with what `stored` holds: for who keeps one buffer, which fresh memory per block would not.

    Raises as `decompress` does; `raw` may then hold anything.
    """
    if codec != CODEC_ZSTD:
        raw[:] = decompress(stored, len(raw), codec)
        return
    try:
        if zstandard.frame_content_size(stored) != len(raw):
            raise DataCorrupt("a compressed extent states another size than its row")
        with _decompressor().stream_reader(stored) as reader:
            filled = 0
            while filled < len(raw) and (got := reader.readinto(raw[filled:])):
                filled += got
    except zstandard.ZstdError as error:
        raise DataCorrupt(f"a compressed extent cannot be decompressed: {error}") from error
    if filled != len(raw):
        raise DataCorrupt(f"an extent decompresses to {filled} bytes instead of {len(raw)}")


def _decompressor() -> zstandard.ZstdDecompressor:
    """Return this thread's."""
    decompressor: zstandard.ZstdDecompressor | None = getattr(_local, "decompressor", None)
    if decompressor is None:
        decompressor = _local.decompressor = zstandard.ZstdDecompressor()
    return decompressor
