"""What a source does for an encrypted chain: keyed digests, and extents sealed after their compression."""

from vbrcore.backupfile.codec import Buffer, checksum
from vbrcore.backupfile.encryption import ChainKey, ExtentSealer
from vbrcore.backupfile.rows import FLAG_ENCRYPTED, Row
from vbrcore.mover.messages import ChainSecret
from vbrcore.mover.storing import Storing, packed


class SealedStoring(Storing):
    """Of one task, under a salt of its own. Safe for several threads; each has one buffer for what it stores."""

    def __init__(self, secret: ChainSecret) -> None:
        self._chain_key = ChainKey(secret.key)
        self._sealer = ExtentSealer(self._chain_key, secret.chain_id)

    def digest(self, raw: Buffer) -> bytes:
        return self._chain_key.digest(raw)

    def store(self, name: bytes, raw: memoryview, kind: int, level: int) -> tuple[Row, bytes | memoryview]:
        """As of an open chain; the stored bytes are good until the calling thread stores the next ones."""
        codec, content = packed(raw, level)
        stored = self._sealer.seal(name, codec, content)
        return Row(name, len(stored), len(raw), codec, kind, checksum(stored), FLAG_ENCRYPTED), stored
