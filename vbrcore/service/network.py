"""Rules for pairs of sites."""

from vbrcore.api import network, operations, types
from vbrcore.model.errors import InvalidValue
from vbrcore.model.network import NetworkRule, rule_of
from vbrcore.service.routes import Call, Routes

_LEAST_BYTES_S = 1024


def add_routes(routes: Routes) -> None:
    routes.add(operations.NETWORK_RULE, _set)
    routes.add(operations.NETWORK_LIST, _list)
    routes.add(operations.NETWORK_REMOVE, _remove)


def _set(call: Call, request: network.NetworkRuleSet) -> network.NetworkRuleView:
    if request.rate_limit_bytes_s < _LEAST_BYTES_S:
        raise InvalidValue(
            f"a rate limit is at least {_LEAST_BYTES_S} bytes per second, not {request.rate_limit_bytes_s}"
        )
    rule = rule_of(request.site_a, request.site_b, request.rate_limit_bytes_s)
    call.service.catalog.set_network_rule(rule)
    return _view(rule)


def _list(call: Call, _request: types.Nothing) -> tuple[network.NetworkRuleView, ...]:
    return tuple(_view(rule) for rule in call.service.catalog.network_rules())


def _remove(call: Call, request: network.NetworkRuleRemove) -> types.Nothing:
    call.service.catalog.remove_network_rule(rule_of(request.site_a, request.site_b, 0))
    return types.Nothing()


def _view(rule: NetworkRule) -> network.NetworkRuleView:
    return network.NetworkRuleView(rule.site_a, rule.site_b, rule.rate_limit_bytes_s)
