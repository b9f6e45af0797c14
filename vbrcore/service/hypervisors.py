"""Hypervisors in the inventory. Settings are checked against the plugin's schema; no plugin connects from here."""

from vbrcore.api import operations, types
from vbrcore.model.errors import InvalidValue
from vbrcore.model.ids import new_id
from vbrcore.model.inventory import Hypervisor
from vbrcore.plugins.api import Plugin
from vbrcore.plugins.loader import load, settings_from
from vbrcore.secrets.secret import Secret
from vbrcore.service.routes import Call, Routes
from vbrcore.service.values import check_name


def add_routes(routes: Routes) -> None:
    routes.add(operations.HYPERVISOR_ADD, _add)
    routes.add(operations.HYPERVISOR_LIST, _list)
    routes.add(operations.HYPERVISOR_SHOW, _show)
    routes.add(operations.HYPERVISOR_REMOVE, _remove)


def _add(call: Call, request: types.HypervisorAdd) -> types.HypervisorView:
    check_name(request.name)
    plugin = load(request.plugin)
    _check_secrets(plugin, request)
    server = call.service.catalog.server_by_name(request.server)
    plugin.check(settings_from(plugin, request.settings), has_host=server.ssh is not None)
    hypervisor = Hypervisor(
        hypervisor_id=new_id(),
        name=request.name,
        plugin=request.plugin,
        settings=request.settings,
        secret_names=tuple(sorted(request.secrets)),
        server=server.name,
    )
    call.service.catalog.add_hypervisor(hypervisor, {name: Secret(text) for name, text in request.secrets.items()})
    return _view(hypervisor)


def _check_secrets(plugin: Plugin, request: types.HypervisorAdd) -> None:
    """Raise `InvalidValue` for a secret among the settings, where it would be shown, and for an unknown secret."""
    secret_names = plugin.info.secrets
    for name in request.settings:
        if name in secret_names:
            raise InvalidValue(f"{name} is a secret: give it with --set-file {name}=FILE")
    for name in request.secrets:
        if name not in secret_names:
            allowed = ", ".join(sorted(secret_names)) or "none"
            raise InvalidValue(f"plugin {request.plugin!r} has no secret {name!r} (there are: {allowed})")


def _list(call: Call, _request: types.Nothing) -> tuple[types.HypervisorView, ...]:
    return tuple(_view(hypervisor) for hypervisor in call.service.catalog.hypervisors())


def _show(call: Call, request: types.ByName) -> types.HypervisorView:
    return _view(call.service.catalog.hypervisor_by_name(request.name))


def _remove(call: Call, request: types.Remove) -> types.Nothing:
    catalog = call.service.catalog
    catalog.remove_hypervisor(catalog.hypervisor_by_name(request.name).hypervisor_id)
    return types.Nothing()


def _view(hypervisor: Hypervisor) -> types.HypervisorView:
    return types.HypervisorView(
        hypervisor.hypervisor_id, hypervisor.name, hypervisor.plugin, dict(hypervisor.settings), hypervisor.server
    )
