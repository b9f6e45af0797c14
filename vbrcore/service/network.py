"""Rules for pairs of sites."""

from vbrcore.api import operations, types
from vbrcore.model.errors import InvalidValue
from vbrcore.model.network import NetworkRule, Sites, rule_of
from vbrcore.service.routes import Call, Routes

_LEAST_BYTES_S = 1024


def add_routes(routes: Routes) -> None:
    routes.add(operations.NETWORK_RULE, _set)
    routes.add(operations.NETWORK_LIST, _list)
    routes.add(operations.NETWORK_REMOVE, _remove)


def _set(call: Call, request: NetworkRule) -> NetworkRule:
    if request.rate_limit_bytes_s < _LEAST_BYTES_S:
        raise InvalidValue(
            f"a rate limit is at least {_LEAST_BYTES_S} bytes per second, not {request.rate_limit_bytes_s}"
        )
    rule = rule_of(request.site_a, request.site_b, request.rate_limit_bytes_s)
    call.service.catalog.set_network_rule(rule)
    return rule


def _list(call: Call, _request: types.Nothing) -> tuple[NetworkRule, ...]:
    return call.service.catalog.network_rules()


def _remove(call: Call, request: Sites) -> types.Nothing:
    call.service.catalog.remove_network_rule(rule_of(request.site_a, request.site_b, 0))
    return types.Nothing()
