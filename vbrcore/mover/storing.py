"""From raw bytes to what is stored: compression with an early way out, checksum, row."""

from typing import Final

from vbrcore.backupfile.codec import CODEC_NONE, CODEC_ZSTD, ZERO_DIGEST, Buffer, checksum, compress, digest
from vbrcore.backupfile.rows import Row
from vbrcore.model.job import Compression
from vbrcore.mover.messages import ChainSecret

LEVELS: Final[dict[Compression, int]] = {"none": 0, "fast": 1, "optimal": 3, "high": 9}
# Compressed blocks that save less than this are stored as they are: reading them back then costs nothing.
_WORTH_SAVING: Final = 0.03
_SAMPLE_BYTES: Final = 16 * 1024
_SAMPLES: Final = 4


class Storing:
    """How blocks and configurations are named and stored; of an encrypted chain see `vbrcore.mover.sealing`."""

    def digest(self, raw: Buffer) -> bytes:
        """Return the name of this content in the chain."""
        return digest(raw)

    def name_of(self, raw: memoryview, zeros: bytearray) -> bytes:
        """Return the digest of a block, or the zero digest if it is all zeros; `zeros` is a block of them."""
        # The bytearray must be on the left: its comparison is a memcmp that stops at the first difference.
        if len(raw) != len(zeros):
            zeros = bytearray(len(raw))
        return ZERO_DIGEST if zeros == raw else self.digest(raw)

    def store(self, name: bytes, raw: memoryview, kind: int, level: int) -> tuple[Row, bytes | memoryview]:
        """Return the row and the stored bytes of an extent; they may be `raw` itself."""
        codec, stored = packed(raw, level)
        return Row(name, len(stored), len(raw), codec, kind, checksum(stored)), stored


def packed(raw: memoryview, level: int) -> tuple[int, bytes | memoryview]:
    """Return the codec and what it makes of the content: `raw` itself where it does not get much shorter."""
    if level and raw and (level == 1 or _looks_compressible(raw)):
        compressed = compress(raw, level)
        if len(compressed) <= len(raw) * (1 - _WORTH_SAVING):
            return CODEC_ZSTD, compressed
    return CODEC_NONE, raw


def storing_for(secret: ChainSecret | None) -> Storing:
    """Return how to store in a chain with that key, or without one."""
    if secret is None:
        return Storing()
    from vbrcore.mover.sealing import SealedStoring  # noqa: PLC0415 - cryptography only where a chain is encrypted

    return SealedStoring(secret)


def _looks_compressible(raw: memoryview) -> bool:
    """Try a few samples at level 1, which finds out for a fraction of what a higher level takes to give up."""
    step = len(raw) // _SAMPLES
    if step <= _SAMPLE_BYTES:
        return True
    sample = b"".join(raw[i * step : i * step + _SAMPLE_BYTES] for i in range(_SAMPLES))
    return len(compress(sample, 1)) <= len(sample) * (1 - _WORTH_SAVING)
