"""What a repository's files say: its chains, their points, and which of these are whole."""

import msgspec

from vbrcore.api import types
from vbrcore.chain.checkup import look_at_maps
from vbrcore.chain.diagnosis import Findings, HarmedPoint
from vbrcore.chain.files import ChainFiles, read_files
from vbrcore.chain.listing import list_chains
from vbrcore.chain.reader import ChainReader
from vbrcore.model.errors import FormatNewer, NotFound
from vbrcore.model.point import Point
from vbrcore.secrets.repositorykey import RepositoryKey
from vbrcore.service.chains import OpenedChain, open_with
from vbrcore.storage.port import Storage

_MOST_SAID = 4


class Surveyed(msgspec.Struct, frozen=True):
    """One chain. `damage`: why points are not whole, by id; `error`: why nothing is known of it."""

    opened: OpenedChain
    missing: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    damage: dict[str, str] = {}
    error: str = ""

    def view(self) -> types.ChainView:
        """Return it as its users see it."""
        points = self.opened.points
        locked = self.opened.locked is not None
        harmed = [point for point in points if point.point_id in self.damage]
        return types.ChainView(
            directory=self.opened.directory,
            job=self.opened.job_name,
            job_id=self.opened.job_id,
            machines=tuple(dict.fromkeys(point.machine for point in points if point.machine)),
            points=len(points),
            whole_points=len(points) - len(harmed),
            missing_files=self.missing,
            unreadable_files=self.unreadable,
            damaged_points=tuple(
                types.DamagedPoint(point.point_id, point.machine, self.damage[point.point_id]) for point in harmed
            ),
            encrypted=self.opened.encrypted,
            sealed=locked,
            warnings=self._warnings(),
        )

    def _warnings(self) -> tuple[str, ...]:
        warnings = [self.error] if self.error else []
        if self.opened.locked is not None:
            warnings.append(str(self.opened.locked))
        return (*warnings, *self.opened.changed.values())


def survey(
    storage: Storage, directory: str, keys: list[RepositoryKey], damage: dict[str, str] | None = None
) -> Surveyed:
    """Read the lists of one chain, and where files are missing or damage is named its maps.

    `damage`: what the maps said a moment ago.
    """
    try:
        found = read_files(storage, directory)
    except FormatNewer as error:
        return Surveyed(OpenedChain(directory, (), encrypted=False, job_id="", job_name=""), error=str(error))
    opened = open_with(keys, directory, found)
    missing, unreadable = found.missing(), tuple(reason for _, reason in found.unreadable)
    if damage is None:
        suspicious = found.files and (missing or unreadable or _is_marked(found))
        damage = _damage(storage, directory) if suspicious else {}
    return Surveyed(opened, missing, unreadable, damage)


def survey_all(storage: Storage, keys: list[RepositoryKey]) -> list[Surveyed]:
    return [survey(storage, directory, keys) for directory in list_chains(storage)]


def _is_marked(found: ChainFiles) -> bool:
    return any(file.contents.damaged for file in found.files)


def _damage(storage: Storage, directory: str) -> dict[str, str]:
    """Return why points are not whole, by id: what they reach that no file has."""
    try:
        with ChainReader.open(storage, directory) as reader:
            names = {point.point_id: point for point in reader.points}
            findings: Findings = look_at_maps(reader)
    except NotFound:  # removed just now
        return {}
    return {one.point_id: _why(one, names.get(one.point_id)) for one in findings.points}


def _why(harmed: HarmedPoint, point: Point | None) -> str:
    parts = []
    for disk in harmed.disks:
        name = point.disks[disk.disk].name if point is not None else ""
        ranges = ", ".join(f"{offset}+{length}" for offset, length in disk.ranges[:_MOST_SAID])
        more = f" and {disk.range_count - _MOST_SAID} more ranges" if disk.range_count > _MOST_SAID else ""
        parts.append(f"{name or f'disk {disk.disk}'} lacks {disk.bytes} bytes at {ranges}{more}")
    if harmed.configuration:
        parts.append("its configuration is lost")
    return "; ".join(parts) or harmed.problem
