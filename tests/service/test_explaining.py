"""What the service says of a task that waits, and of who holds what."""

import msgspec
import pytest

from tests.service.conftest import Holder, wait_for
from vbrcore.api import operations as ops
from vbrcore.api import types as t
from vbrcore.api.balance import Explain
from vbrcore.api.client import Client
from vbrcore.model.errors import CanNeverRun, NoRoute, NotFound
from vbrcore.model.inventory import Repository, Server
from vbrcore.service.balancing import check_can_run

NOTHING = t.Nothing()


@pytest.mark.usefixtures("job")
def test_a_task_that_waits_is_explained_by_job_session_and_task(client: Client, holder: Holder) -> None:
    session_id = client.call(ops.JOB_RUN, t.ByName("nightly")).session_id
    wait_for(lambda: any(one.disk for one in client.call(ops.EXPLAIN, Explain(session_id)).waits), "a task that waits")
    view = client.call(ops.EXPLAIN, Explain("nightly"))
    (wait,) = view.waits
    assert (view.session_id, wait.session_id, wait.machine, wait.disk) == (session_id, session_id, "m1", "disk.raw")
    assert (wait.reason, wait.place, wait.of) == ("host_budget_used", 1, 1)
    assert wait.rank.rank == wait.rank.class_rank + wait.rank.start + wait.rank.ageing
    assert wait.starts_in_s is not None
    (candidate,) = wait.candidates
    host = next(use for use in candidate.resources if use.lacks)
    assert [(one.session_id, one.units) for one in host.holders] == [("holder", host.limit)]
    assert not any(use.lacks for use in wait.resources)
    assert client.call(ops.EXPLAIN, Explain(wait.demand_id)).waits[0].reason == "host_budget_used"

    slots = {one.resource: one for one in client.call(ops.SLOTS, NOTHING)}
    taken = slots[host.resource]
    assert (taken.used, taken.limit, taken.waiting, taken.label) == (host.limit, host.limit, 1, "server local")
    assert [one.kind for one in slots.values() if one.used] == ["host", "chain"]

    holder.end()
    wait_for(lambda: client.call(ops.EXPLAIN, Explain(session_id)).state == "ended", "the session's end")
    assert client.call(ops.EXPLAIN, Explain("nightly")).waits == ()
    assert not any(one.used for one in client.call(ops.SLOTS, NOTHING))


@pytest.mark.usefixtures("job")
def test_what_is_not_there_or_never_ran_is_not_explained(client: Client) -> None:
    for name in ("nightly", "nothing"):
        with pytest.raises(NotFound, match=name):
            client.call(ops.EXPLAIN, Explain(name))


def test_a_job_that_could_never_run_is_refused_with_what_is_short() -> None:
    local = Server("s", "local", ("proxy", "repository"), 1, 1)
    check_can_run(Repository("r", "main", "local", "/srv", 1), (local,))
    for short, what in (
        (Server("s", "local", ("repository",), 1, 1), "proxy local has 0 units"),
        (Server("s", "local", ("proxy", "repository"), 0, 1), "proxy local has 0 units"),
    ):
        with pytest.raises(CanNeverRun, match=what):
            check_can_run(Repository("r", "main", "local", "/srv", 1), (short,))


def test_a_job_whose_data_has_no_way_is_refused() -> None:
    here = Server("s", "local", ("repository",), 0, 2, dials_only=True)
    there = Server("t", "proxy", ("proxy",), 2, 2, dials_only=True)
    repository = Repository("r", "main", "local", "/srv", 1)
    with pytest.raises(NoRoute, match="repository main is on local, which only dials, and so does proxy"):
        check_can_run(repository, (here, there))
    check_can_run(repository, (here, msgspec.structs.replace(there, dials_only=False)))
