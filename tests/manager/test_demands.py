import msgspec

from vbrcore.balancer.candidates import Candidates
from vbrcore.manager.demands import (
    chain_demand,
    class_of,
    copy_demand,
    disk_demand,
    further_disk_demand,
    read_demand,
)
from vbrcore.manager.placement import placed
from vbrcore.model.inventory import Disk, Hypervisor, Machine, Repository, Server
from vbrcore.model.job import Job
from vbrcore.model.session import Session, Task

LOCAL = Server("s1", "local", ("proxy", "repository"), 2, 2)
FAR = Server("s2", "far", ("proxy",), 2, 2)
REPOSITORY = Repository("r1", "main", "local", "/r", 2)
HYPERVISOR = Hypervisor("h1", "lab", "images", {}, server="local")
JOB = Job("j", "nightly", "h1", "r1", ("*",))
SESSION = Session("se", "j", "nightly", "backup", "running", "none", manual=True, created=1.0)
TASK = Task("t1", "se", "m", "d0", size_bytes=5, created=2.0)
MACHINE = Machine("m1", "m", (Disk("a", "d0", 5, "ds1"), Disk("b", "d1", 5, "ds1"), Disk("c", "d2", 5, "ds2", "rdm")))


def resources(units: object) -> list[str]:
    return [unit.resource for unit in units]  # type: ignore[attr-defined]


def found(*, job: Job = JOB, **servers_of: tuple[str, ...]) -> Candidates:
    """Where a disk can be read: the servers that offer each mode, the best mode first."""
    modes = {one.name: tuple(mode for mode, names in servers_of.items() if one.name in names) for one in (LOCAL, FAR)}
    return placed(job, REPOSITORY, HYPERVISOR.server, servers=(LOCAL, FAR), beside=LOCAL, modes=modes)


def test_a_session_of_the_schedule_begins_a_machine_only_while_its_window_is_open() -> None:
    def gates(session: Session) -> tuple[str, ...]:
        return disk_demand(
            session,
            TASK,
            MACHINE,
            scope="m",
            hypervisor=HYPERVISOR,
            found=found(host=("local",)),
            repository=REPOSITORY,
        ).gates

    assert gates(SESSION) == ()
    assert gates(msgspec.structs.replace(SESSION, manual=False)) == ("window:j",)


def test_the_class_of_a_session_is_that_of_its_job_unless_somebody_waits_for_it() -> None:
    quick = msgspec.structs.replace(SESSION, request={"quick": True})
    copy = msgspec.structs.replace(JOB, source_repository_id="r2")
    of = {"high": 400, "regular": 300, "low": 100}
    assert {priority: class_of(msgspec.structs.replace(JOB, priority=priority)) for priority in of} == of
    assert (class_of(copy), class_of(JOB, quick), class_of(JOB, SESSION)) == (200, 500, 300)
    assert class_of(msgspec.structs.replace(JOB, priority="low"), quick) == 500


def test_the_machines_own_host_comes_first_and_the_jobs_list_is_all_there_is() -> None:
    both = found(tunnel=("local", "far"))
    assert [(one.server, one.mode) for one in both.choices] == [("local", "tunnel"), ("far", "tunnel")]
    assert both.choices[0].merits == ("own_host",)
    listed = found(tunnel=("local", "far"), job=msgspec.structs.replace(JOB, proxies=("far",)))
    assert [one.server for one in listed.choices] == ["far"]
    assert [(one.server, one.reason) for one in listed.excluded] == [("local", "not_in_the_jobs_list")]


def test_a_first_disk_takes_the_machine_and_one_place_on_each_datastore_it_touches() -> None:
    demand = disk_demand(
        SESSION,
        TASK,
        MACHINE,
        scope="machine:m1",
        hypervisor=HYPERVISOR,
        found=found(host=("local",)),
        repository=REPOSITORY,
    )
    assert resources(demand.machine_units) == ["machine:h1/m1", "datastore:h1/ds1"]
    assert demand.machine_scope == "machine:m1"
    assert resources(demand.units) == ["repository:r1"]


def test_a_host_that_is_proxy_and_repository_costs_one_unit_of_its_budget() -> None:
    near, far = further_disk_demand(
        SESSION, TASK, found=found(host=("local",), nbd=("far",)), repository=REPOSITORY
    ).choices
    assert resources(near.units) == ["proxy:s1", "host:s1"]
    assert resources(far.units) == ["proxy:s2", "host:s2", "host:s1"]


def test_a_further_disk_of_an_open_machine_ranks_above_regular_ones() -> None:
    further = further_disk_demand(SESSION, TASK, found=found(nbd=("far",)), repository=REPOSITORY)
    assert further.class_rank == 700
    assert further.machine_units == ()


def test_a_restore_needs_the_repository_and_no_proxy() -> None:
    demand = read_demand(SESSION, TASK, REPOSITORY, LOCAL)
    assert demand.class_rank == 800
    assert resources(demand.choices[0].units) == ["host:s1"]


def test_a_copy_takes_a_slot_of_both_repositories_and_only_reads_one_of_them() -> None:
    second = Repository("r2", "second", "far", "/s", 2)
    demand = copy_demand(SESSION, TASK, source=(REPOSITORY, LOCAL), target=(second, FAR))
    assert demand.class_rank == 200
    assert resources(demand.units) == ["repository:r1", "repository:r2"]
    assert (demand.writes, demand.only_read) == (True, ("repository:r1",))
    assert resources(demand.choices[0].units) == ["host:s1", "host:s2"]
    beside = copy_demand(SESSION, TASK, source=(REPOSITORY, LOCAL), target=(second, LOCAL))
    assert resources(beside.choices[0].units) == ["host:s1"]


def test_the_chain_is_held_by_the_session() -> None:
    demand = chain_demand(SESSION, REPOSITORY, "nightly_1")
    assert (demand.level, demand.scope) == ("chain", "session")
    assert resources(demand.units) == ["chain:r1/nightly_1"]


def test_a_proxy_whose_data_has_no_way_to_the_repository_is_no_candidate() -> None:
    beside, far = (msgspec.structs.replace(one, dials_only=True) for one in (LOCAL, FAR))
    modes = {"local": ("host",), "far": ("host",)}
    both = placed(JOB, REPOSITORY, HYPERVISOR.server, servers=(beside, far), beside=beside, modes=modes)
    assert [choice.server for choice in both.choices] == ["local"]  # on one server nobody dials
    assert [(one.server, one.reason) for one in both.excluded] == [("far", "no_route")]
    reached = placed(JOB, REPOSITORY, HYPERVISOR.server, servers=(beside, FAR), beside=beside, modes=modes)
    assert [choice.server for choice in reached.choices] == ["local", "far"]
