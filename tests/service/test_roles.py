"""What one service node does for all: done by whoever holds the role, and by nobody else."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.conftest import wait_for
from vbrcore.api import operations as ops
from vbrcore.api import types as t
from vbrcore.api.client import Client
from vbrcore.catalog.catalog import Catalog
from vbrcore.model.job import Schedule
from vbrcore.model.session import Session, Totals


def test_the_one_service_of_a_home_holds_all_roles(client: Client, catalog: Catalog, job: t.JobView) -> None:
    client.call(ops.JOB_RUN, t.ByName(job.name))
    wait_for(lambda: catalog.roles() == dict.fromkeys(("balancer", "schedule", "cleanup"), "local"), "the roles")


def test_what_another_node_submits_is_run_once_by_the_one_that_claims_it(catalog: Catalog, job: t.JobView) -> None:
    theirs = Session("their-own", "", "n", "verify", "starting", "none", True, time.time(), node="other")
    catalog.submit_session(theirs)
    catalog.submit_session(Session("for-any", job.job_id, job.name, "backup", "starting", "none", True, time.time()))
    wait_for(lambda: catalog.session("for-any").state == "ended", "the session's end")
    assert (catalog.session("for-any").result, catalog.session("for-any").node) == ("success", "local")
    assert catalog.session("their-own") == theirs  # its node is not asked for its process here
    assert [stored.point.session_id for stored in catalog.points(job.job_id)] == ["for-any"]
    # Or this service would wait for it when it is stopped.
    catalog.finish_session("their-own", result="success", ended=time.time(), totals=Totals(), warnings=(), error=None)


@pytest.fixture
def elsewhere(home: Path) -> Iterator[Catalog]:
    """The catalog, in which another node holds the schedule, before there is a service here."""
    opened = Catalog.open(home)
    assert opened.take_role("schedule", "other")
    yield opened
    opened.close()


def test_only_the_node_that_holds_the_schedule_starts_what_is_due(
    elsewhere: Catalog, client: Client, job: t.JobView
) -> None:
    client.call(ops.JOB_SCHEDULE, t.JobSchedule(job.name, Schedule("every", every_s=7 * 86400)))
    elsewhere.set_schedule(job.job_id, elsewhere.job(job.job_id).schedule, due := time.time())
    client.call(ops.JOB_RUN, t.ByName(job.name))  # asked for by somebody, so it is any node's
    wait_for(lambda: elsewhere.last_run(job.job_id, ended=True) is not None, "the run that was asked for")
    assert elsewhere.next_runs()[job.job_id] == due
    with elsewhere._database.write() as connection:
        connection.execute("UPDATE roles SET expires = 0 WHERE name = 'schedule'")
    wait_for(lambda: elsewhere.next_runs()[job.job_id] != due, "the run that is due")
    assert elsewhere.roles()["schedule"] == "local"
    assert [session.manual for session in elsewhere.sessions(job_id=job.job_id)] == [False, True]
