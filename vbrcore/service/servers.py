"""Managed servers and how much of them is in use."""

from vbrcore.api import operations, types
from vbrcore.service.routes import Call, Routes


def add_routes(routes: Routes) -> None:
    routes.add(operations.SERVER_LIST, _list)


def _list(call: Call, _request: types.Nothing) -> tuple[types.ServerView, ...]:
    used = call.service.catalog.usage()
    return tuple(
        types.ServerView(
            server_id=server.server_id,
            name=server.name,
            roles=server.roles,
            site=server.site,
            proxy_slots=server.proxy_slots,
            proxy_slots_used=used[f"proxy:{server.server_id}"],
            host_budget=server.host_budget,
            host_budget_used=used[f"host:{server.server_id}"],
        )
        for server in call.service.catalog.servers()
    )
