"""Import and rescan: the catalog learns from a repository's files alone. Nothing is written to them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from vbrcore.api import operations, types
from vbrcore.catalog.catalog import Catalog
from vbrcore.chain.files import LOCK_NAME
from vbrcore.chain.listing import list_chains
from vbrcore.model.errors import (
    AlreadyExists,
    ChainLocked,
    InvalidValue,
    NoBackupsFound,
    NotEncrypted,
    PermissionRefused,
    RepositoryNotMounted,
    RepositoryReadOnly,
    VbrError,
)
from vbrcore.model.ids import new_id
from vbrcore.model.inventory import LOCAL_SERVER, Repository
from vbrcore.secrets.repositorykey import RepositoryKey
from vbrcore.service.repositories import check_settings, find_repository, key_of
from vbrcore.service.routes import Call, Routes
from vbrcore.service.survey import Surveyed, survey, survey_all
from vbrcore.service.values import check_name
from vbrcore.storage.local import LocalStorage
from vbrcore.storage.port import Storage
from vbrcore.storage.repository import IDENTITY_NAME, read_identity, write_identity
from vbrcore.transport.storages import is_here


def add_routes(routes: Routes) -> None:
    routes.add(operations.REPOSITORY_IMPORT, _import)
    routes.add(operations.REPOSITORY_RESCAN, _rescan)


# --- import -------------------------------------------------------------------------------------------


def _import(call: Call, request: types.RepositoryImport) -> types.ImportView:
    catalog = call.service.catalog
    check_name(request.name)
    slots = check_settings(request.slots, request.reserve_bytes)
    path = Path(request.path)
    if not path.is_absolute() or not path.is_dir():
        raise InvalidValue(f"{path} is no directory")
    _check_unknown(catalog, request.name, path)
    repository_id = _identity(path)
    if any(one.repository_id == repository_id for one in catalog.repositories()):
        raise AlreadyExists(f"{path} is repository {catalog.repository(repository_id).name} already")
    key = None if request.key is None else key_of(request.key)
    storage = LocalStorage(path)
    if not repository_id and not list_chains(storage):
        raise NoBackupsFound(f"{path} is no repository: it has neither {IDENTITY_NAME} nor backup files")
    chains = survey_all(storage, [] if key is None else [key])
    _check_key(path, chains, key)
    _check_strangers(catalog, chains)
    adopted = not repository_id
    repository = Repository(
        repository_id=repository_id or new_id(),
        name=request.name,
        server=LOCAL_SERVER,
        path=request.path,
        slots=slots,
        reserve_bytes=request.reserve_bytes,
    )
    if adopted:
        write_identity(storage, path, repository.repository_id)
    try:
        _add(catalog, repository, key, chains)
    except VbrError:
        catalog.forget_repository_key(repository.repository_id)
        if adopted:
            (path / IDENTITY_NAME).unlink()
        raise
    views = tuple(one.view() for one in chains)
    return types.ImportView(repository.name, repository.repository_id, repository.path, views)


def _identity(path: Path) -> str:
    """Return the id of the repository that a directory is; empty where it has lost it."""
    try:
        (path / IDENTITY_NAME).lstat()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise PermissionRefused(f"{path} cannot be read: {error.strerror}") from error
    try:
        return read_identity(path).repository_id
    except RepositoryNotMounted as error:
        raise InvalidValue(f"{error}: put it right, or take it away to import without it") from error


def _check_unknown(catalog: Catalog, name: str, path: Path) -> None:
    for one in catalog.repositories():
        if one.name == name:
            raise AlreadyExists(f"there is a repository {name} already")
        if is_here(one) and Path(one.path).resolve() == path.resolve():
            raise AlreadyExists(f"{path} is repository {one.name} already")


def _check_key(path: object, chains: list[Surveyed], key: RepositoryKey | None) -> None:
    """Raise where a key was given and opens none of the chains. Some may have been left behind by a change of it."""
    if key is None:
        return
    encrypted = [one for one in chains if one.opened.encrypted]
    if chains and not encrypted:
        raise NotEncrypted(f"no chain in {path} is encrypted")
    locked = [one.opened.locked for one in encrypted if one.opened.locked is not None]
    if locked and len(locked) == len(encrypted):
        raise locked[0]


def _check_strangers(catalog: Catalog, chains: list[Surveyed]) -> None:
    """Raise where points are known as those of another repository: of a copy that would take them from it."""
    known = {
        stored.point.point_id: repository.name
        for repository in catalog.repositories()
        for stored in catalog.points_in(repository.repository_id)
    }
    for chain in chains:
        for point in chain.opened.points:
            if point.point_id in known:
                raise AlreadyExists(
                    f"point {point.point_id} in {chain.opened.directory} is one of repository"
                    f" {known[point.point_id]}: this is a copy of it"
                )


def _add(catalog: Catalog, repository: Repository, key: RepositoryKey | None, chains: list[Surveyed]) -> None:
    """The repository first, so that where an import is cut off here a rescan completes it."""
    if key is not None:  # before anybody can see the repository, and write to it in the open
        catalog.set_repository_key(repository.repository_id, key)
    catalog.add_repository(repository)
    for chain in chains:
        _put(catalog, repository.repository_id, chain)


def _put(catalog: Catalog, repository_id: str, chain: Surveyed) -> None:
    opened = chain.opened
    job_id = _owner(catalog, repository_id, opened.directory) or opened.job_id
    catalog.replace_points(repository_id, job_id, opened.directory, opened.points, chain.damage)


def _owner(catalog: Catalog, repository_id: str, directory: str) -> str:
    """Return the id of the job that writes this chain; empty: none."""
    encrypted = catalog.is_encrypted(repository_id)
    for job in catalog.jobs():
        own = job.chain_directory(encrypted=encrypted)
        if job.repository_id == repository_id and (directory == own or directory.startswith(f"{own}/")):
            return job.job_id
    return ""


# --- rescan -------------------------------------------------------------------------------------------


def _rescan(call: Call, request: types.RepositoryRescan) -> types.RescanView:
    catalog = call.service.catalog
    repository = find_repository(call, request.name)
    repository_id = repository.repository_id
    storage = call.service.elsewhere.open(repository)
    if request.key is not None:
        _learn_key(catalog, repository, storage, key_of(request.key))
    keys = [key for key in (catalog.repository_key(repository_id), catalog.next_repository_key(repository_id)) if key]
    before = {stored.point.point_id: stored for stored in catalog.points_in(repository_id)}
    directories = {*list_chains(storage), *(stored.directory for stored in before.values())}
    chains, skipped = list[Surveyed](), list[str]()
    for directory in sorted(directories):
        damage = survey(storage, directory, keys).damage  # takes long; the lock is then held for a moment only
        try:
            with _settled(storage, directory):
                chain = survey(storage, directory, keys, damage)
                if not chain.error:
                    _put(catalog, repository_id, chain)
                chains.append(chain)
        except ChainLocked:
            skipped.append(directory)
    after = {stored.point.point_id: stored for stored in catalog.points_in(repository_id)}
    both = before.keys() & after.keys()
    present = set(list_chains(storage))
    return types.RescanView(
        name=repository.name,
        repository_id=repository_id,
        chains=tuple(chain.view() for chain in chains if chain.opened.directory in present),
        added=tuple(point_id for point_id in after if point_id not in before),
        removed=tuple(point_id for point_id in before if point_id not in after),
        moved=tuple(one for one in after if one in both and before[one].directory != after[one].directory),
        skipped=tuple(skipped),
        warnings=_left_behind(catalog, repository, present, {stored.directory for stored in before.values()}),
    )


def _learn_key(catalog: Catalog, repository: Repository, storage: Storage, key: RepositoryKey) -> None:
    if catalog.is_encrypted(repository.repository_id):
        raise AlreadyExists(
            f"what repository {repository.name} opens with is known: 'repository passphrase' changes it"
        )
    _check_key(repository.path, survey_all(storage, [key]), key)
    catalog.set_repository_key(repository.repository_id, key)


@contextlib.contextmanager
def _settled(storage: Storage, directory: str) -> Iterator[None]:
    """Keep writers of a chain away for a moment. Raises `ChainLocked`. What is gone or read-only has no writer."""
    if directory not in list_chains(storage):
        yield
        return
    try:
        lock = storage.lock(f"{directory}/{LOCK_NAME}")
    except (RepositoryReadOnly, PermissionRefused):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _left_behind(catalog: Catalog, repository: Repository, present: set[str], before: set[str]) -> tuple[str, ...]:
    """Return what to do about jobs whose chains are not where they were."""
    encrypted = catalog.is_encrypted(repository.repository_id)
    return tuple(
        f"the chain {own} of job {job.name} is gone: its next session begins another;"
        " 'job map' lets it go on with one that was moved"
        for job in catalog.jobs()
        if job.repository_id == repository.repository_id
        and (own := job.chain_directory(encrypted=encrypted)) in before
        and own not in present
    )
