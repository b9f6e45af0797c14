"""From raw bytes to what is stored: compression with an early way out, checksum, row."""

from typing import Final

from vbrcore.backupfile.codec import CODEC_NONE, CODEC_ZSTD, ZERO_DIGEST, checksum, compress, digest
from vbrcore.backupfile.rows import Row
from vbrcore.model.job import Compression

LEVELS: Final[dict[Compression, int]] = {"none": 0, "fast": 1, "optimal": 3, "high": 9}
# Compressed blocks that save less than this are stored as they are: reading them back then costs nothing.
_WORTH_SAVING: Final = 0.03
_SAMPLE_BYTES: Final = 16 * 1024
_SAMPLES: Final = 4


def name_of(raw: memoryview, zeros: bytearray) -> bytes:
    """Return the digest of a block, or the zero digest if it is all zeros; `zeros` is a block of them."""
    # The bytearray must be on the left: its comparison is a memcmp that stops at the first difference.
    if len(raw) != len(zeros):
        zeros = bytearray(len(raw))
    return ZERO_DIGEST if zeros == raw else digest(raw)


def store(name: bytes, raw: memoryview, kind: int, level: int) -> tuple[Row, bytes | memoryview]:
    """Return the row and the stored bytes of an extent; they may be `raw` itself."""
    stored: bytes | memoryview = raw
    codec = CODEC_NONE
    if level and raw and (level == 1 or _looks_compressible(raw)):
        compressed = compress(raw, level)
        if len(compressed) <= len(raw) * (1 - _WORTH_SAVING):
            stored, codec = compressed, CODEC_ZSTD
    return Row(name, len(stored), len(raw), codec, kind, checksum(stored)), stored


def _looks_compressible(raw: memoryview) -> bool:
    """Try a few samples at level 1, which finds out for a fraction of what a higher level takes to give up."""
    step = len(raw) // _SAMPLES
    if step <= _SAMPLE_BYTES:
        return True
    sample = b"".join(raw[i * step : i * step + _SAMPLE_BYTES] for i in range(_SAMPLES))
    return len(compress(sample, 1)) <= len(sample) * (1 - _WORTH_SAVING)
