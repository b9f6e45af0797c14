"""Which plugins are installed and whether they fit."""

from vbrcore.api import operations, types
from vbrcore.plugins.loader import list_plugins
from vbrcore.service.routes import Call, Routes


def add_routes(routes: Routes) -> None:
    routes.add(operations.PLUGIN_LIST, _list)


def _list(_call: Call, _request: types.Nothing) -> tuple[types.PluginView, ...]:
    return tuple(
        types.PluginView(
            id=entry.id,
            distribution=entry.distribution,
            version=entry.version,
            api=entry.api,
            state=entry.state,
            reason=entry.reason,
            capabilities=entry.capabilities,
            proxy_mode=entry.proxy_mode,
        )
        for entry in list_plugins()
    )
