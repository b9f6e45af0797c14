"""The backup-server half: a directory of machines. See docs/plugins.md; the mover half is `mover.py`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from vbr_images.hypervisor import ImageDirectory
from vbrcore.model.errors import HypervisorUnreachable, InvalidValue
from vbrcore.model.inventory import Machine
from vbrcore.plugins.api import ManagedHost, PluginInfo


class Settings(msgspec.Struct, frozen=True):
    path: Annotated[str, msgspec.Meta(min_length=1, description="the directory that holds the machines")]


class ImagesPlugin:
    info = PluginInfo(
        plugin_id="images",
        api_version="2.0",
        capabilities=frozenset({"configuration", "create_machine"}),
        proxy_mode="separate",
        config=Settings,
    )

    def check(self, settings: msgspec.Struct, *, has_host: bool) -> None:
        wanted = msgspec.convert(settings, Settings, from_attributes=True)
        if not Path(wanted.path).is_absolute():
            raise InvalidValue(f"setting 'path': {wanted.path!r} is not absolute")
        if has_host:
            raise InvalidValue("the images plugin reads directories of the backup server only: leave --server out")

    def connect(self, settings: msgspec.Struct, secrets: Mapping[str, str], host: ManagedHost | None) -> ImageDirectory:  # noqa: ARG002 - has no secrets
        self.check(settings, has_host=host is not None)
        wanted = msgspec.convert(settings, Settings, from_attributes=True)
        root = Path(wanted.path)
        if not root.is_dir():
            raise HypervisorUnreachable(f"{wanted.path} is no directory")
        return ImageDirectory(root)

    def transport_modes(self, machine: Machine, server: str, host: ManagedHost | None) -> Sequence[str]:  # noqa: ARG002 - the same for all
        return ("file",) if server == "local" else ()


PLUGIN = ImagesPlugin()
