"""The entry point: what this plugin is. libvirt is imported with the first connection only."""

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import msgspec

from vbr_kvm.settings import KvmSettings
from vbr_kvm.ways import HOST, TUNNEL
from vbrcore.model.errors import InvalidValue, PluginBroken
from vbrcore.model.inventory import LOCAL_SERVER, Machine
from vbrcore.model.serverfacts import Finding
from vbrcore.plugins.api import API_VERSION, Hypervisor, ManagedHost, PluginInfo

URIS = ("qemu:///system", "qemu:///session")


class KvmPlugin:
    info = PluginInfo(
        plugin_id="kvm",
        api_version=API_VERSION,
        capabilities=frozenset({"change_tracking", "quiesce", "live", "configuration", "create_machine", "power_on"}),
        proxy_mode="on_host",
        config=KvmSettings,
        mover_wheels=("asyncssh", "typing_extensions"),
    )

    def check(self, settings: msgspec.Struct, *, has_host: bool) -> None:
        uri = _settings(settings).uri
        if uri in URIS and not (has_host and uri != URIS[0]):
            return
        parts = urlsplit(uri)
        if (parts.scheme, parts.path) != ("qemu+ssh", "/system") or not parts.hostname or parts.query:
            raise InvalidValue(f"uri {uri!r}: one of {', '.join(URIS)}, or qemu+ssh://USER@HOST/system with --server")
        if not has_host:
            raise InvalidValue(
                f"uri {uri!r}: add the host as a managed server first ('server add NAME --ssh {parts.netloc}') and"
                " name it here with --server NAME: its login and its pinned host key are used"
            )

    def connect(self, settings: msgspec.Struct, secrets: Mapping[str, str], host: ManagedHost | None) -> Hypervisor:  # noqa: ARG002 (no secrets)
        wanted = self._fitting(settings, host)
        try:
            from vbr_kvm.hypervisor import KvmHypervisor  # noqa: PLC0415 (libvirt is needed from here on)
        except ImportError as error:
            raise PluginBroken(f"libvirt-python cannot be imported: {error}") from error
        return KvmHypervisor(wanted, host)

    def look(self, settings: msgspec.Struct, secrets: Mapping[str, str], host: ManagedHost | None) -> Sequence[Finding]:  # noqa: ARG002 (no secrets)
        wanted = self._fitting(settings, host)
        try:
            from vbr_kvm.look import look_here, look_there  # noqa: PLC0415
        except ImportError as error:
            raise PluginBroken(f"libvirt-python cannot be imported: {error}") from error
        return look_here(wanted) if host is None else look_there(wanted, host)

    def _fitting(self, settings: msgspec.Struct, host: ManagedHost | None) -> KvmSettings:
        self.check(settings, has_host=host is not None)
        wanted = _settings(settings)
        if host is not None:
            _check_same(wanted.uri, host)
        return wanted

    def transport_modes(self, machine: Machine, server: str, host: ManagedHost | None) -> Sequence[str]:  # noqa: ARG002 (all machines alike)
        if host is None:
            return (HOST,) if server == LOCAL_SERVER else ()
        # What an agent of the backup server holds cannot be given to movers elsewhere.
        tunnel = (TUNNEL,) if host.access.login != "agent" or server == LOCAL_SERVER else ()
        return (HOST, *tunnel) if server == host.name else tunnel


def _settings(settings: msgspec.Struct) -> KvmSettings:
    if not isinstance(settings, KvmSettings):
        raise InvalidValue("settings of the kvm plugin expected")
    return settings


def _check_same(uri: str, host: ManagedHost) -> None:
    """Raise `InvalidValue` where the URI names another host or user than the server: one of them is a mistake."""
    parts = urlsplit(uri)
    access = host.access
    if (parts.hostname or access.host) != access.host or (parts.username or access.user) != access.user:
        raise InvalidValue(f"uri {uri!r} is not server {host.name}, which is reached as {access.user}@{access.host}")


PLUGIN = KvmPlugin()
