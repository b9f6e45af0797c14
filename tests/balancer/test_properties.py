"""What must hold for any inventory, any holders and any demands."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from vbrcore.balancer.decide import Capacities, Decisions, Pending, decide, units_taken
from vbrcore.balancer.demand import Choice, Demand, Unit

NOW = 1_800_000_000.0
SERVERS = ("p", "q", "r")
REPOSITORIES = ("a", "b")
MACHINES = ("m1", "m2", "m3")

capacities = st.builds(
    lambda proxies, hosts, repositories: Capacities(
        {
            **{f"proxy:{name}": slots for name, slots in zip(SERVERS, proxies, strict=True)},
            **{f"host:{name}": budget for name, budget in zip(SERVERS, hosts, strict=True)},
            **{f"repository:{name}": slots for name, slots in zip(REPOSITORIES, repositories, strict=True)},
        }
    ),
    st.tuples(*[st.integers(0, 4)] * 3),
    st.tuples(*[st.integers(0, 4)] * 3),
    st.tuples(*[st.integers(0, 4)] * 2),
)


@st.composite
def demands(draw: st.DrawFn) -> list[Pending]:
    found = []
    for number in range(draw(st.integers(0, 12))):
        machine = draw(st.sampled_from((*MACHINES, "")))
        servers = draw(st.lists(st.sampled_from(SERVERS), unique=True, max_size=3))
        repository_server = draw(st.sampled_from(SERVERS))
        choices = tuple(
            Choice(
                name,
                draw(st.sampled_from(("nbd", "hotadd"))),
                (Unit(f"proxy:{name}"), *(Unit(f"host:{host}") for host in dict.fromkeys((name, repository_server)))),
            )
            for name in servers
        )
        demand = Demand(
            demand_id=f"d{number}",
            session_id=f"s{number % 3}",
            level="task",
            scope=f"d{number}",
            created=NOW - draw(st.integers(0, 40_000)),
            class_rank=draw(st.sampled_from((100, 300, 400, 700, 800))),
            manual=draw(st.booleans()),
            units=(Unit(f"repository:{draw(st.sampled_from(REPOSITORIES))}"),),
            machine_scope=machine,
            machine_units=(Unit(f"machine:h/{machine}"), Unit("datastore:h/d")) if machine else (),
            choices=choices,
            expected_bytes=draw(st.integers(0, 5)),
            session_started=NOW - draw(st.integers(0, 4000)),
        )
        found.append(Pending(demand, draw(st.none() | st.just(NOW - 700) | st.just(NOW - 10))))
    return found


def used_after(held: Counter[str], pending: list[Pending], decisions: Decisions) -> Counter[str]:
    used = Counter(held)
    by_id = {one.demand.demand_id: one.demand for one in pending}
    for grant in decisions.grants:
        used.update(resource for _, resource in units_taken(by_id[grant.demand_id], grant))
    return used


def fits(limits: Capacities, used: Counter[str], demand: Demand) -> bool:
    base = [unit.resource for unit in (*demand.units, *demand.machine_units)]
    options = [[unit.resource for unit in choice.units] for choice in demand.choices] or [[]]
    return any(
        all(used[name] + count <= limits.limit(name) for name, count in Counter(base + option).items())
        for option in options
    )


@given(capacities, demands(), st.integers(0, 2**32))
def test_nothing_is_over_committed_and_nobody_waits_without_need(
    limits: Capacities, pending: list[Pending], seed: int
) -> None:
    held = Counter({name: seed >> shift & 1 for shift, name in enumerate(limits.limits) if limits.limits[name]})
    decisions = decide(limits, held, pending, NOW)
    used = used_after(held, pending, decisions)
    assert all(count <= limits.limit(name) for name, count in used.items())

    answered = [grant.demand_id for grant in decisions.grants] + [wait.demand_id for wait in decisions.waits]
    assert sorted(answered) == sorted(one.demand.demand_id for one in pending)
    assert [wait.place for wait in decisions.waits] == list(range(1, len(decisions.waits) + 1))
    by_id = {one.demand.demand_id: one.demand for one in pending}
    for wait in decisions.waits:
        assert wait.reason == "reserved_for" or not fits(limits, used, by_id[wait.demand_id])


@given(capacities, demands(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(limits: Capacities, pending: list[Pending], random: object) -> None:
    shuffled = list(pending)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert decide(limits, {}, pending, NOW) == decide(limits, {}, shuffled, NOW)


@given(capacities, demands())
def test_all_that_can_ever_run_runs_when_the_others_are_done(limits: Capacities, pending: list[Pending]) -> None:
    left = list(pending)
    while left:
        decisions = decide(limits, {}, left, NOW)
        done = {grant.demand_id for grant in decisions.grants}
        if not done:
            assert all(wait.reason == "no_proxy" for wait in decisions.waits)
            return
        left = [one for one in left if one.demand.demand_id not in done]
