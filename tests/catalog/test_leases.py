"""Who holds what: granted in one transaction, given back as a whole, ended in time."""

import functools
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from vbrcore.balancer.decide import Capacities, decide
from vbrcore.balancer.demand import CLASS_REGULAR, Choice, Demand, Unit
from vbrcore.catalog.catalog import Catalog
from vbrcore.catalog.processes import is_alive, process_started, processes_of
from vbrcore.model.errors import LeaseLost
from vbrcore.model.session import Session

DECIDE = functools.partial(decide, Capacities({"proxy:p": 1, "host:p": 1, "repository:r": 2}))


def begin(catalog: Catalog, session_id: str) -> None:
    catalog.submit_session(Session(session_id, session_id, "n", "backup", "starting", "none", True, 1.0))
    catalog.begin_session(session_id, 1, 1.0)


def demand(session_id: str, name: str, machine: str = "m") -> Demand:
    return Demand(
        demand_id=name,
        session_id=session_id,
        level="task",
        scope=name,
        created=1.0,
        class_rank=CLASS_REGULAR,
        manual=True,
        units=(Unit("repository:r"),),
        machine_scope=f"scope-{machine}",
        machine_units=(Unit(f"machine:h/{machine}"),),
        choices=(Choice("p", "host", (Unit("proxy:p"), Unit("host:p"))),),
    )


def end_lease(catalog: Catalog, session_id: str) -> None:
    with catalog._database.write() as connection:
        connection.execute("UPDATE holders SET expires = 0 WHERE session_id = ?", (session_id,))


def test_a_demand_waits_with_a_reason_until_all_of_it_is_free(catalog: Catalog) -> None:
    begin(catalog, "s1")
    begin(catalog, "s2")
    catalog.request_lease(demand("s1", "a"))
    catalog.request_lease(demand("s2", "b"))
    assert catalog.balance(DECIDE) == 1
    grant = catalog.granted("a")
    assert grant is not None
    assert (grant.server, grant.mode) == ("p", "host")
    assert catalog.granted("b") is None
    (wait,) = catalog.waiting("s2")
    assert (wait.demand_id, wait.reason, wait.place) == ("b", "machine_in_use", 1)
    catalog.release("s1", "a")
    assert catalog.usage() == {"machine:h/m": 1}  # until the snapshot is released
    assert catalog.balance(DECIDE) == 0
    catalog.release("s1", "scope-m")
    assert catalog.balance(DECIDE) == 1
    assert catalog.granted("b") is not None


def test_cancelling_gives_back_what_was_granted_meanwhile(catalog: Catalog) -> None:
    begin(catalog, "s1")
    catalog.request_lease(demand("s1", "a"))
    catalog.balance(DECIDE)
    catalog.cancel_request(demand("s1", "a"))
    assert catalog.granted("a") is None
    assert not catalog.usage()


def test_a_demand_may_be_asked_again_after_its_release(catalog: Catalog) -> None:
    begin(catalog, "s1")
    for _ in range(3):
        catalog.request_lease(demand("s1", "a"))
        assert catalog.granted("a") is None
        assert catalog.balance(DECIDE) == 1
        catalog.release("s1", "a")
        catalog.release("s1", "scope-m")
    assert not catalog.usage()


def test_a_lease_that_nobody_renews_ends_as_a_whole(catalog: Catalog) -> None:
    begin(catalog, "s1")
    catalog.request_lease(demand("s1", "a"))
    catalog.balance(DECIDE)
    catalog.request_lease(demand("s1", "b", "other"))
    assert not catalog.end_expired("s1")
    end_lease(catalog, "s1")
    assert catalog.holders()["s1"] < 0
    assert catalog.end_expired("s1")
    assert not catalog.usage()
    assert catalog.waiting() == ()
    assert not catalog.renew("s1")
    with pytest.raises(LeaseLost):
        catalog.request_lease(demand("s1", "c"))


def test_choices_that_many_wait_for_are_kept_once_and_not_for_ever(catalog: Catalog) -> None:
    begin(catalog, "s1")
    alike = [demand("s1", name) for name in ("a", "b")]
    for one in alike:
        catalog.request_lease(one)
    assert [one.demand for one in catalog.pending()] == alike
    first, second = (one.demand.choices for one in catalog.pending())
    assert first is second

    other = msgspec.structs.replace(demand("s1", "a"), choices=(Choice("q", "", (Unit("proxy:q"),)),))
    catalog.request_lease(other)
    catalog.cancel_request(alike[1])
    assert [one.demand for one in catalog.pending()] == [other]
    catalog.request_lease(msgspec.structs.replace(other, choices=(Choice("r", "", ()),)))
    assert catalog._database.number("SELECT count(*) FROM choices") == 2  # those of the first two are gone


def test_a_late_renewal_is_good_as_long_as_nobody_gave_the_lease_away(catalog: Catalog) -> None:
    begin(catalog, "s1")
    end_lease(catalog, "s1")
    assert catalog.renew("s1")
    assert catalog.holders()["s1"] > 0
    assert not catalog.end_expired("s1")


def test_grace_and_clock_jumps_move_the_ends(catalog: Catalog) -> None:
    begin(catalog, "s1")
    end_lease(catalog, "s1")
    catalog.grant_grace()
    left = catalog.holders()["s1"]
    assert left > 0
    catalog.extend_leases(1000)
    assert catalog.holders()["s1"] > left + 900


_RIVAL = """
import functools, sys
from pathlib import Path
from vbrcore.balancer.decide import Capacities, decide
from vbrcore.catalog.catalog import Catalog
catalog = Catalog.open(Path(sys.argv[1]))
decide = functools.partial(decide, Capacities({"proxy:p": 1, "host:p": 1, "repository:r": 9}))
granted = 0
for _ in range(100):
    granted += catalog.balance(decide)
    assert catalog.usage()["proxy:p"] <= 1
    catalog.release("s1", "a")
    catalog.renew("s1")
print(granted)
"""


def test_two_processes_never_grant_the_same_unit_twice(catalog: Catalog, tmp_path: Path) -> None:
    begin(catalog, "s1")
    rivals = [
        subprocess.Popen([sys.executable, "-c", _RIVAL, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    version = catalog.data_version()
    asked = 0
    while any(rival.poll() is None for rival in rivals):
        if not catalog.waiting() and catalog.granted("a") is None:
            catalog.request_lease(Demand("a", "s1", "task", "a", 1.0, 300, True, choices=demand("s1", "a").choices))
            asked += 1
        assert catalog.usage()["proxy:p"] <= 1
    granted = sum(int(rival.communicate()[0]) for rival in rivals)
    assert all(rival.returncode == 0 for rival in rivals)
    assert granted in {asked, asked - 1}
    assert catalog.data_version() != version


def test_a_process_is_known_by_its_pid_and_start() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        started = process_started(child.pid)
        assert started is not None
        assert is_alive(child.pid, started)
        assert not is_alive(child.pid, started - 1)
        assert processes_of("no-such-session") == ()
    finally:
        child.kill()
    while process_started(child.pid) is not None:
        pass
    assert not is_alive(child.pid, started)  # a zombie is dead
    child.wait()
