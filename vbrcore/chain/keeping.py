"""Keeping a whole chain in order: each generation by itself, and those without points altogether."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence

from vbrcore.chain.eviction import Eviction
from vbrcore.chain.givenback import GivenBack
from vbrcore.chain.index import DedupIndex
from vbrcore.chain.pins import Pinned, read_pins
from vbrcore.chain.upkeep import Upkeep
from vbrcore.chain.view import View
from vbrcore.storage.capabilities import StorageClass


def give_back(upkeep: Upkeep, storage_class: StorageClass, *, all_of_it: bool) -> GivenBack:
    """Give back what no kept and no pinned point needs. The run's own file is sealed, and no source is sending.

    Raises what the storage and the fence raise, and `IndexFailed`.
    """
    done = GivenBack()
    for view, pinned in _views(upkeep, done):
        Eviction(view, storage_class, [pin.point for pin in pinned], done, all_of_it=all_of_it).run()
    return done


def compact(upkeep: Upkeep, storage_class: StorageClass, *, rewrite: bool) -> GivenBack:
    """Move what lives into as few files as it needs; `rewrite`: all of it, in the order of the disks."""
    done = GivenBack()
    for view, pinned in _views(upkeep, done):
        Eviction(view, storage_class, [pin.point for pin in pinned], done, all_of_it=True).compact(rewrite=rewrite)
    return done


def _views(upkeep: Upkeep, done: GivenBack) -> Iterator[tuple[View, list[Pinned]]]:
    """Yield the generations of which all is there, with what is pinned; those without points go."""
    ledger = upkeep.ledger
    if ledger.unreadable:
        done.warnings += [f"nothing is given back: {reason}" for reason in ledger.unreadable]
        return
    pins = read_pins(upkeep.storage, upkeep.directory)
    for generation_id in ledger.generations():
        pinned = [pin for pin in pins if pin.generation_id == generation_id.hex()]
        missing = ledger.missing(generation_id)
        if missing:
            done.warnings.append(f"{upkeep.directory}: nothing is given back while files are missing: {missing[0]}")
        elif generation_id == ledger.generation_id:
            if ledger.generation():
                yield View(upkeep, generation_id, upkeep.index), pinned
        elif not pinned and not any(file.contents.points for file in ledger.generation(generation_id)):
            _unlink_generation(upkeep, generation_id, done)
        else:
            with _opened(upkeep, generation_id, done) as view:
                if view is not None:
                    yield view, pinned
    _drop_indexes(upkeep)


@contextlib.contextmanager
def _opened(upkeep: Upkeep, generation_id: bytes, done: GivenBack) -> Iterator[View | None]:
    """Give a generation that is not the current one, with an index of its own for a while."""
    index = DedupIndex(upkeep.index_directory, generation_id)
    try:
        warnings = index.update(upkeep.storage, upkeep.ledger.generation(generation_id))
        done.warnings += [f"nothing is given back: {warning}" for warning in warnings]
        yield None if warnings else View(upkeep, generation_id, index)
    finally:
        index.close()


def _unlink_generation(upkeep: Upkeep, generation_id: bytes, done: GivenBack) -> None:
    """Remove all files of a generation; the last one is that whose list names no other."""
    *others, keeper = upkeep.ledger.generation(generation_id)
    done.freed_bytes += upkeep.unlink(others, keeper)
    upkeep.check()
    done.freed_bytes += upkeep.remove([upkeep.ledger.files[keeper.file_id]])
    done.unlinked_files += len(others) + 1


def _drop_indexes(upkeep: Upkeep) -> None:
    there = {generation_id.hex() for generation_id in upkeep.ledger.generations()}
    for path in upkeep.index_directory.iterdir():
        if path.is_dir() and path.name not in there:
            shutil.rmtree(path, ignore_errors=True)


def newest_points(view: View) -> Sequence[str]:
    """Return the ids of the newest point of each machine in a generation."""
    return [point.point_id for point in {(p.plugin, p.machine_id): p for p in view.points}.values()]
