"""Sessions wait until a service node claims them; a role is one node's at a time."""

import threading

import pytest

from vbrcore.catalog.catalog import Catalog
from vbrcore.model.errors import JobAlreadyRunning
from vbrcore.model.session import Session


def submit(catalog: Catalog, number: int) -> None:
    catalog.submit_session(Session(f"s{number}", f"j{number}", "n", "backup", "starting", "none", True, float(number)))


def end_role(catalog: Catalog, name: str) -> None:
    with catalog._database.write() as connection:
        connection.execute("UPDATE roles SET expires = 0 WHERE name = ?", (name,))


def test_each_session_is_claimed_once_by_however_many_nodes(catalog: Catalog) -> None:
    for number in range(60):
        submit(catalog, number)
    claimed: list[tuple[str, str]] = []

    def claim(node: str) -> None:
        own = Catalog.open(catalog._database.path.parent)
        while (session := own.claim_session(node)) is not None:
            assert session.node == node
            claimed.append((session.session_id, node))
        own.close()

    nodes = [threading.Thread(target=claim, args=(f"node{number}",)) for number in range(3)]
    for node in nodes:
        node.start()
    for node in nodes:
        node.join()
    assert sorted(session_id for session_id, _ in claimed) == sorted(f"s{number}" for number in range(60))
    assert {session.session_id: session.node for session in catalog.live_sessions()} == dict(claimed)


def test_the_oldest_is_claimed_first_and_a_second_run_of_its_job_is_refused(catalog: Catalog) -> None:
    for number in (2, 1, 3):
        submit(catalog, number)
    with pytest.raises(JobAlreadyRunning):
        catalog.submit_session(Session("again", "j2", "n", "backup", "starting", "none", True, 9.0))
    found = [catalog.claim_session("a"), catalog.claim_session("a"), catalog.claim_session("b")]
    assert [(one.session_id, one.node) for one in found if one] == [("s1", "a"), ("s2", "a"), ("s3", "b")]
    assert catalog.claim_session("b") is None


def test_a_session_is_stalled_when_its_lease_is_over(catalog: Catalog) -> None:
    submit(catalog, 1)
    assert catalog.claim_session("a") is not None
    assert catalog.stalled_sessions() == ()  # no manager has begun, so there is no lease
    catalog.begin_session("s1", 1, 1.0)
    assert catalog.stalled_sessions() == ()
    catalog.extend_leases(-1000.0)
    assert catalog.stalled_sessions() == ("s1",)
    assert catalog.renew("s1")  # nobody has given it away
    assert catalog.stalled_sessions() == ()


def test_a_role_is_kept_by_its_holder_and_changes_hands_when_it_is_over(catalog: Catalog) -> None:
    assert catalog.take_role("balancer", "a")
    assert catalog.take_role("schedule", "b")
    assert not catalog.take_role("balancer", "b")
    assert catalog.take_role("balancer", "a")
    assert catalog.roles() == {"balancer": "a", "schedule": "b"}
    end_role(catalog, "balancer")
    assert catalog.take_role("balancer", "b")
    assert not catalog.take_role("balancer", "a")
    with catalog._database.write() as connection:
        epochs = dict(map(tuple, connection.execute("SELECT name, epoch FROM roles")))
    assert epochs == {"balancer": 2, "schedule": 1}


def test_a_clock_that_was_set_costs_nobody_a_role(catalog: Catalog) -> None:
    assert catalog.take_role("balancer", "a")
    catalog.extend_leases(-1000.0)
    assert catalog.take_role("balancer", "b")
    catalog.extend_leases(1000.0)
    assert not catalog.take_role("balancer", "a")
