"""Naming damage in the files' own lists, so that nobody takes it for good and the next run asks for it again."""

from collections.abc import Collection, Iterable

from vbrcore.backupfile.contents import Damage
from vbrcore.chain.diagnosis import MOST_MARKS, Mark
from vbrcore.chain.examine import has_row
from vbrcore.chain.upkeep import Upkeep


def mark_damaged(upkeep: Upkeep, marks: Iterable[Mark], bad_tables: Collection[bytes]) -> tuple[int, list[str]]:
    """Name these extents as damaged, both slots; return how many, and what the index says of the tables.

    Extents that are not there any more are passed over. What stands in the tables of the files in `bad_tables` leaves
    the index: from now on it counts as lost. The writer's commit lock is held and no file is being written.
    """
    by_file: dict[bytes, list[Mark]] = {}
    for mark in marks:
        by_file.setdefault(mark.file_id, []).append(mark)
    count = 0
    for file_id, wanted in by_file.items():
        file = upkeep.ledger.files.get(file_id)
        if file is None:
            continue
        reader = upkeep.readers.get(file.name)
        known = {(damage.digest, damage.offset) for damage in file.contents.damaged}
        fresh = [
            Damage(mark.digest, mark.offset)
            for mark in dict.fromkeys(wanted)
            if (mark.digest, mark.offset) not in known and has_row(file, reader, mark.digest, mark.offset)
        ][: max(0, MOST_MARKS - len(known))]
        if fresh:
            upkeep.check()
            upkeep.rewrite(file, damaged=(*file.contents.damaged, *fresh))
            count += len(fresh)
    if bad_tables:
        upkeep.index.reset()
    return count, upkeep.index.update(upkeep.storage, upkeep.ledger.generation())
