"""What a mover is given: how it reaches disks, configuration and new images, by each transport mode.

`host`: a mover on the host of the machines. `tunnel`: a mover anywhere, through SSH; nothing of ours is needed there.
"""

from typing import Any

from vbrcore.plugins.api import DiskSource, ManagedHost, SinkSpec, SourceSpec
from vbrcore.plugins.ssh import settings_of

HOST, TUNNEL = "host", "tunnel"
Settings = dict[str, str | int | bool | list[str]]


class Ways:
    """`managed`: the server of the machines; None: this one, so that there is only `host`."""

    def __init__(self, managed: ManagedHost | None) -> None:
        self._managed = managed

    def disk(self, target: str, size_bytes: int, reader: str, settings: Settings, **tracking: Any) -> DiskSource:
        """Return a disk; `tracking`: `change_id`, `since`, `full_reason`."""
        near = SourceSpec("kvm", reader, settings)
        if self._managed is None:
            return DiskSource(target, target, size_bytes, near, HOST, **tracking)
        return DiskSource(target, target, size_bytes, self._far(near), TUNNEL, others={HOST: near}, **tracking)

    def configuration(self, near: SourceSpec) -> SourceSpec:
        return near if self._managed is None else self._far(near)

    def sink(self, size_bytes: int, settings: Settings) -> SinkSpec:
        if self._managed is None:
            return SinkSpec("kvm", "image", size_bytes, settings)
        reached = settings | settings_of(self._managed.access)
        secrets = self._managed.secrets
        # The keys of an agent are on the backup server only.
        return SinkSpec("kvm", "image-tunnel", size_bytes, reached, secrets, anywhere=bool(secrets))

    def _far(self, near: SourceSpec) -> SourceSpec:
        if self._managed is None:
            return near
        reached = near.settings | settings_of(self._managed.access)
        return SourceSpec("kvm", f"{near.reader}-tunnel", reached, self._managed.secrets)
