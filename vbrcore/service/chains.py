"""Chains of a repository as the catalog takes them in: their points, opened where their key is known."""

import msgspec

from vbrcore.catalog.catalog import Catalog
from vbrcore.chain.files import ChainFiles
from vbrcore.model.errors import DataCorrupt, FormatInvalid, KeyNeeded, VbrError, WrongPassphrase
from vbrcore.model.point import Point
from vbrcore.secrets.repositorykey import RepositoryKey


class OpenedChain(msgspec.Struct, frozen=True):
    """`points` have their names, but for those of an encrypted chain that stays `locked`, and why.

    `changed`: points that are not as the chain's key left them, by id.
    """

    directory: str
    points: tuple[Point, ...]
    encrypted: bool
    job_id: str
    job_name: str
    locked: VbrError | None = None
    changed: dict[str, str] = {}


def open_chain(catalog: Catalog, repository_id: str, directory: str, found: ChainFiles) -> OpenedChain:
    """Open a chain with what its repository is locked with, or is being changed to."""
    keys = (catalog.repository_key(repository_id), catalog.next_repository_key(repository_id))
    return open_with([key for key in keys if key is not None], directory, found)


def open_with(keys: list[RepositoryKey], directory: str, found: ChainFiles) -> OpenedChain:
    """Open a chain with the first key that fits. Trying a passphrase takes 0.1 s."""
    newest = max(found.files, key=lambda file: file.age, default=None)
    if newest is None:
        return OpenedChain(directory, (), encrypted=False, job_id="", job_name="")
    points, contents = found.points(), newest.contents
    opened = OpenedChain(directory, points, newest.slot.encrypted, contents.job_id, contents.job_name)
    if not newest.slot.encrypted:
        return opened
    locked: VbrError = KeyNeeded(f"the chain {directory} is encrypted, and its passphrase is not known here")
    for key in keys:
        try:
            chain_key = key.open(contents.key_slots, newest.slot.chain_id)
        except (WrongPassphrase, FormatInvalid) as error:
            locked = WrongPassphrase(f"the chain {directory}: {error}")
            continue
        from vbrcore.backupfile.sealedpoints import open_point  # noqa: PLC0415 - only where a chain is encrypted

        true, changed = list[Point](), dict[str, str]()
        for point in points:
            try:
                true.append(open_point(point, chain_key, newest.slot.chain_id))
            except DataCorrupt as error:
                changed[point.point_id] = str(error)
        name = true[-1].job_name if true else ""
        return msgspec.structs.replace(opened, points=tuple(true), job_name=name, changed=changed)
    return msgspec.structs.replace(opened, locked=locked)
