"""The backup-server half: a directory of machines. See docs/plugins.md; the mover half is `mover.py`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from vbr_images.hypervisor import EVERY_HOST, ImageDirectory
from vbrcore.model.errors import HypervisorUnreachable, InvalidValue
from vbrcore.model.inventory import Machine
from vbrcore.plugins.api import ManagedHost, PluginInfo


class Settings(msgspec.Struct, frozen=True):
    path: Annotated[str, msgspec.Meta(min_length=1, description="the directory that holds the machines")]
    shared: Annotated[bool, msgspec.Meta(description="it is mounted there on every server, e.g. by NFS")] = False


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
        if has_host and not wanted.shared:
            raise InvalidValue(
                "images on another server need shared=yes (every server has the directory), or no --server"
            )

    def connect(self, settings: msgspec.Struct, secrets: Mapping[str, str], host: ManagedHost | None) -> ImageDirectory:  # noqa: ARG002 - has no secrets
        self.check(settings, has_host=host is not None)
        wanted = msgspec.convert(settings, Settings, from_attributes=True)
        root = Path(wanted.path)
        if not root.is_dir():
            raise HypervisorUnreachable(f"{wanted.path} is no directory")
        return ImageDirectory(root, host=EVERY_HOST if wanted.shared else "")

    def transport_modes(self, machine: Machine, server: str, host: ManagedHost | None) -> Sequence[str]:  # noqa: ARG002 - never on a host
        return ("file",) if server == "local" or machine.host == EVERY_HOST else ()


PLUGIN = ImagesPlugin()
