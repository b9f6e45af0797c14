"""Levels, ranks, passing, reservations and reasons."""

from collections.abc import Sequence

import msgspec

from vbrcore.balancer.decide import Capacities, Closed, Decisions, Pending, decide, units_taken
from vbrcore.balancer.demand import CLASS_REGULAR, CLASS_RESTORE, RANK_OPEN_MACHINE, Choice, Demand, Unit
from vbrcore.balancer.rank import rank

NOW = 1_800_000_000.0
LIMITS = Capacities({"proxy:p": 2, "host:p": 2, "repository:r": 2, "proxy:q": 4, "host:q": 4})


def choice(server: str, mode: str = "host") -> Choice:
    return Choice(server, mode, (Unit(f"proxy:{server}"), Unit(f"host:{server}")))


def task(
    name: str,
    *,
    machine: str = "",
    class_rank: int = CLASS_REGULAR,
    size: int = 0,
    created: float = NOW,
    started: float = NOW,
    choices: tuple[Choice, ...] = (),
    units: tuple[Unit, ...] = (Unit("repository:r"),),
    machine_units: tuple[Unit, ...] = (),
) -> Demand:
    if machine:
        machine_units = (Unit(f"machine:h/{machine}"), *machine_units)
    return Demand(
        demand_id=name,
        session_id="s",
        level="task",
        scope=name,
        created=created,
        class_rank=class_rank,
        manual=False,
        units=units,
        machine_scope=machine,
        machine_units=machine_units,
        choices=choices or (choice("p"),),
        expected_bytes=size,
        session_started=started,
    )


def run(demands: Sequence[Demand], held: dict[str, int] | None = None, capacities: Capacities = LIMITS) -> Decisions:
    return decide(capacities, held or {}, [Pending(demand) for demand in demands], NOW)


def granted(decisions: Decisions) -> list[str]:
    return [grant.demand_id for grant in decisions.grants]


def test_two_disks_run_at_once_on_two_cores() -> None:
    decisions = run([task("a", size=1), task("b", size=2), task("c", size=3)])
    assert granted(decisions) == ["c", "b"]
    (wait,) = decisions.waits
    assert (wait.demand_id, wait.reason, wait.place) == ("a", "no_free_repository_slot", 1)


def test_every_reason_names_what_is_taken() -> None:
    free = task("t", machine="m", machine_units=(Unit("datastore:h/d"),))
    for held, reason in (
        ({"machine:h/m": 1}, "machine_in_use"),
        ({"datastore:h/d": 4}, "datastore_snapshot_limit"),
        ({"repository:r": 2}, "no_free_repository_slot"),
        ({"proxy:p": 2}, "no_free_proxy_slot"),
        ({"host:p": 2}, "host_budget_used"),
    ):
        assert [wait.reason for wait in run([free], held).waits] == [reason]
    assert run([free], {"datastore:h/d": 3}).waits == ()
    chain = Demand("c", "s", "chain", "session", NOW, CLASS_REGULAR, True, (Unit("chain:r/x"),))
    assert [wait.reason for wait in run([chain], {"chain:r/x": 1}).waits] == ["chain_in_use"]
    assert [wait.reason for wait in run([task("t", choices=(choice("gone"),))]).waits] == ["no_proxy"]


def test_a_closed_repository_takes_nothing_whatever_is_free() -> None:
    capacities = Capacities(LIMITS.limits, {"repository:r": Closed("repository_below_reserve", "1 byte free")})
    (wait,) = run([task("a")], capacities=capacities).waits
    assert (wait.reason, wait.detail) == ("repository_below_reserve", "1 byte free")


def test_a_repository_that_is_closed_to_writers_can_be_read() -> None:
    closed = Closed("repository_below_reserve", "1 byte free", to_writers=True)
    capacities = Capacities(LIMITS.limits, {"repository:r": closed})
    assert [wait.demand_id for wait in run([task("backup")], capacities=capacities).waits] == ["backup"]
    restore = msgspec.structs.replace(task("restore"), writes=False)
    assert granted(run([restore], capacities=capacities)) == ["restore"]
    copy = msgspec.structs.replace(task("copy"), only_read=("repository:r",))
    assert granted(run([copy], capacities=capacities)) == ["copy"]


def test_a_first_disk_takes_machine_and_slots_together() -> None:
    demand = task("a", machine="m")
    (grant,) = run([demand]).grants
    assert sorted(units_taken(demand, grant)) == [
        ("a", "host:p"),
        ("a", "proxy:p"),
        ("a", "repository:r"),
        ("m", "machine:h/m"),
    ]


def test_a_lower_task_passes_one_that_cannot_start() -> None:
    decisions = run([task("blocked", machine="m", class_rank=CLASS_RESTORE), task("free")], {"machine:h/m": 1})
    assert granted(decisions) == ["free"]
    assert decisions.passed == {"blocked"}


def test_the_best_mode_comes_first_then_the_least_loaded_server() -> None:
    both = (choice("p", "nbd"), choice("q", "nbd"), choice("p", "hotadd"))
    assert run([task("a", choices=both)], {"proxy:p": 1, "host:p": 1}).grants[0].server == "q"
    best_first = (choice("p", "hotadd"), choice("q", "nbd"))
    assert run([task("a", choices=best_first)], {"proxy:p": 1, "host:p": 1}).grants[0].server == "p"
    assert run([task("a", choices=best_first)], {"proxy:p": 2}).grants[0].server == "q"


def test_ranks() -> None:
    hours = 3600.0
    assert rank(task("a"), NOW) == CLASS_REGULAR + 30
    assert rank(task("a", created=NOW - hours), NOW) == CLASS_REGULAR + 130
    assert rank(task("a", created=NOW - 100 * hours), NOW) == 690
    assert rank(task("a", class_rank=CLASS_RESTORE, created=NOW - 9 * hours), NOW) == CLASS_RESTORE + 30
    assert rank(task("a", class_rank=RANK_OPEN_MACHINE, created=NOW - 9 * hours), NOW) == RANK_OPEN_MACHINE


def test_equals_are_ordered_by_quarter_of_an_hour_then_by_size() -> None:
    quarter = NOW - NOW % 900
    older = task("older", size=1, started=quarter - 1)
    small = task("small", size=1, started=quarter)
    large = task("large", size=9, started=quarter + 800)
    waits = run([small, large, older], {"repository:r": 2}).waits
    assert [wait.demand_id for wait in waits] == ["older", "large", "small"]


def test_after_ten_minutes_free_units_are_kept_for_who_was_passed() -> None:
    # "wide" needs both slots of the repository; one is taken for long, and small ones keep passing it.
    wide = task("wide", class_rank=400, units=(Unit("repository:r"), Unit("repository:r")))
    pending = [Pending(wide, NOW - 601), Pending(task("small"))]
    decisions = decide(LIMITS, {"repository:r": 1}, pending, NOW)
    assert decisions.grants == ()
    assert [wait.reason for wait in decisions.waits] == ["no_free_repository_slot", "reserved_for"]
    pending = [Pending(wide, NOW - 599), Pending(task("small"))]
    assert granted(decide(LIMITS, {"repository:r": 1}, pending, NOW)) == ["small"]


def test_no_units_are_kept_for_who_waits_for_something_else() -> None:
    blocked = Pending(task("blocked", machine="m", class_rank=400), NOW - 900)
    decisions = decide(LIMITS, {"machine:h/m": 1}, [blocked, Pending(task("a")), Pending(task("b"))], NOW)
    assert granted(decisions) == ["a", "b"]


def test_a_server_that_can_never_take_a_task_does_not_hide_one_that_could() -> None:
    """Neither in the reason, nor by keeping the task from a reservation."""
    limits = Capacities({"proxy:p": 0, "host:p": 0, "proxy:q": 1, "host:q": 2, "repository:r": 9})
    waiting = task("waits", choices=(choice("p"), choice("q")), created=NOW - 5)
    (wait,) = decide(limits, {"proxy:q": 1}, [Pending(waiting)], NOW).waits
    assert wait.reason == "no_free_proxy_slot"

    def decided(passed_since: float | None) -> Decisions:
        lower = task("lower", choices=(Choice("q", "host", (Unit("host:q"),)),), started=NOW + 3600)
        held = {"proxy:q": 1, "host:q": 1}
        return decide(limits, held, [Pending(waiting, passed_since), Pending(lower)], NOW)

    assert granted(decided(None)) == ["lower"]
    kept = decided(NOW - 700)
    assert granted(kept) == []
    assert [one.reason for one in kept.waits] == ["no_free_proxy_slot", "reserved_for"]
