"""The entry point: what this plugin is. libvirt is imported with the first connection only."""

from collections.abc import Mapping, Sequence

import msgspec

from vbr_kvm.settings import KvmSettings
from vbrcore.model.errors import InvalidValue, PluginBroken
from vbrcore.model.inventory import Machine
from vbrcore.plugins.api import API_VERSION, Hypervisor, PluginInfo

URIS = ("qemu:///system", "qemu:///session")


class KvmPlugin:
    info = PluginInfo(
        plugin_id="kvm",
        api_version=API_VERSION,
        capabilities=frozenset({"change_tracking", "quiesce", "live", "configuration", "create_machine", "power_on"}),
        proxy_mode="on_host",
        config=KvmSettings,
    )

    def connect(self, settings: msgspec.Struct, secrets: Mapping[str, str]) -> Hypervisor:  # noqa: ARG002 (none needed)
        if not isinstance(settings, KvmSettings):
            raise InvalidValue("settings of the kvm plugin expected")
        if settings.uri not in URIS:
            raise InvalidValue(f"uri {settings.uri!r}: one of {', '.join(URIS)}")
        try:
            from vbr_kvm.hypervisor import KvmHypervisor  # noqa: PLC0415 (libvirt is needed from here on)
        except ImportError as error:
            raise PluginBroken(f"libvirt-python cannot be imported: {error}") from error
        return KvmHypervisor(settings)

    def transport_modes(self, machine: Machine, server: str) -> Sequence[str]:  # noqa: ARG002 (local libvirt only)
        return ("host",)


PLUGIN = KvmPlugin()
