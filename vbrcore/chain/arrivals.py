"""What a run has been sent and what it was promised: extents that are not committed yet."""

import threading
from collections.abc import Iterable, Sequence
from typing import Final

from vbrcore.backupfile.codec import DIGEST_BYTES

HAVE: Final = 0
WAIT: Final = 1
SEND: Final = 2


class Arrivals:
    """Rows written but not in the index yet, extents being written, and promises. Thread-safe.

    `changes` counts what left for the index, so that a caller who looked there before can tell that it must again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[bytes, tuple[str, bytes]] = {}
        self._writing: set[bytes] = set()
        self._promises: dict[bytes, int] = {}
        self.changes = 0

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, digest: bytes) -> tuple[str, bytes] | None:
        """Return (file name, 64-byte row) of an extent that was received."""
        return self._rows.get(digest)

    def answer(self, digests: Sequence[bytes], known: Sequence[bool], owner: int, changes: int) -> bytes | None:
        """Return `HAVE`, `WAIT` or `SEND` per digest; what is to be sent is promised to `owner` from now on.

        `known` is what the index said when `changes` was read; None when that may have changed since.
        """
        answers = bytearray(len(digests))
        promised_now: set[bytes] = set()
        with self._lock:
            if changes != self.changes:
                return None
            for place, (digest, is_known) in enumerate(zip(digests, known, strict=True)):
                if is_known or digest in self._rows:
                    continue
                promised_before = digest not in promised_now and self._promises.get(digest) == owner
                if digest in self._writing or (digest in self._promises and not promised_before):
                    answers[place] = WAIT
                else:
                    self._promises[digest] = owner
                    promised_now.add(digest)
                    answers[place] = SEND
        return bytes(answers)

    def begin(self, digest: bytes) -> bool:
        """Say whether the extent is still wanted; it then counts as being written."""
        with self._lock:
            if digest in self._rows or digest in self._writing:
                return False
            self._writing.add(digest)
            return True

    def finish(self, digest: bytes, place: tuple[str, bytes] | None) -> None:
        """The extent was written as (file name, row), or (None) was not or need not be."""
        with self._lock:
            self._writing.discard(digest)
            self._promises.pop(digest, None)
            if place is not None:
                self._rows[digest] = place

    def release(self, owner: int) -> None:
        """Forget the promises of an owner."""
        with self._lock:
            self._promises = {digest: other for digest, other in self._promises.items() if other != owner}

    def sorted_rows(self) -> list[bytes]:
        """Return the rows of all received extents, by digest."""
        with self._lock:
            rows = [row for _, row in self._rows.values()]
        return sorted(rows)

    def settle(self, rows: Iterable[bytes]) -> None:
        """These rows are committed and in the index."""
        with self._lock:
            for row in rows:
                del self._rows[row[:DIGEST_BYTES]]
            self.changes += 1
