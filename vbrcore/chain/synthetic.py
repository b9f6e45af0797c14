"""A synthetic full: the newest points go into a new generation, as they are stored; nothing goes from the old one."""

from collections.abc import Collection, Iterator
from itertools import islice
from typing import Final

import msgspec

from vbrcore.backupfile.codec import DIGEST_BYTES
from vbrcore.chain.closure import check_closure
from vbrcore.chain.givenback import GivenBack
from vbrcore.chain.index import DedupIndex
from vbrcore.chain.mark import mark
from vbrcore.chain.sweep import live_rows, sweep
from vbrcore.chain.transplant import Transplant
from vbrcore.chain.upkeep import Upkeep
from vbrcore.chain.view import View
from vbrcore.model.errors import InvalidValue
from vbrcore.storage.capabilities import StorageClass

_BATCH: Final = 4096


def synthetic_full(upkeep: Upkeep, storage_class: StorageClass, point_ids: Collection[str]) -> GivenBack:
    """Make the generation whose points these are (with `kind` full), and go on in it: `upkeep.index` is its index.

    What a synthetic full that was killed has left is gone on with. Raises `BlocksMissing` and `DataCorrupt` where a
    point is not whole, and what the storage raises: the chain then stays in its generation.
    """
    old = View(upkeep, upkeep.ledger.generation_id, upkeep.index)
    points = [point for point in old.points if point.point_id in point_ids]
    if not points:
        raise InvalidValue("none of these points stands in the current generation")
    if any(point.block_size_bytes != upkeep.ledger.run.block_size_bytes for point in points):
        raise InvalidValue("a synthetic full has the block size of its points")
    reached = mark(points, old.fetch, old.rows)
    done = GivenBack()
    upkeep.ledger.start_generation(upkeep.ledger.pending())
    index = DedupIndex(upkeep.index_directory, upkeep.ledger.generation_id)
    transplant = Transplant(upkeep, index, "inc", clone=storage_class == "clone")
    try:
        index.update(upkeep.storage, upkeep.ledger.generation())
        for file in old.files:
            reader = upkeep.readers.get(file.name)
            swept = sweep(file, reader, reached, old.index.places)
            transplant.move(file, _not_in(index, live_rows(swept, reader)))

        def have(digests: list[bytes]) -> list[bool]:
            there = index.get(digests)
            return [value is not None or digest in transplant for digest, value in zip(digests, there, strict=True)]

        for point in points:
            check_closure(point, None, lambda digests: have(list(digests)), old.fetch)
        transplant.finish(tuple(msgspec.structs.replace(point, kind="full") for point in points))
    except BaseException:
        transplant.abandon()
        index.close()
        upkeep.ledger.return_to(old.generation_id)
        raise
    done.moved_bytes, done.clone_calls = transplant.moved_bytes, transplant.clone_calls
    upkeep.index = index
    old.index.close()
    return done


def _not_in(index: DedupIndex, rows: Iterator[bytes]) -> Iterator[bytes]:
    while batch := list(islice(rows, _BATCH)):
        found = index.get([row[:DIGEST_BYTES] for row in batch])
        yield from (row for row, value in zip(batch, found, strict=True) if value is None)
