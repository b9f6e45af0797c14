"""What can never fit, however long it waits."""

from collections import Counter

from vbrcore.balancer.demand import Choice, Demand
from vbrcore.balancer.room import Capacities


def why_never(capacities: Capacities, demand: Demand) -> str:
    """Say why a demand could not run if everything else was gone; "": it could. What is closed may open again."""
    own = Counter(unit.resource for unit in (*demand.machine_units, *demand.units))
    if lack := _lack(capacities, own):
        return lack
    if not demand.choices:
        return ""
    lacks = [_lack_of(capacities, own, choice) for choice in demand.choices]
    return "" if "" in lacks else "; ".join(dict.fromkeys(lacks))


def _lack_of(capacities: Capacities, own: Counter[str], choice: Choice) -> str:
    return _lack(capacities, own + Counter(unit.resource for unit in choice.units))


def _lack(capacities: Capacities, needs: Counter[str]) -> str:
    for resource, count in needs.items():
        limit = capacities.limit(resource)
        if count > limit:
            return f"{capacities.label(resource)} has {limit} units, {count} are needed at once"
    return ""
