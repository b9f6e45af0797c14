"""`explain` and `slots`, against the real service and as they are printed."""

from pathlib import Path

import pytest

from tests.conftest import Vbr
from vbrcore.api.balance import CandidateView, HolderView, RankView, UseView, WaitView
from vbrcore.cli import explain


def test_slots_and_a_session_that_is_over(vbr: Vbr, tmp_path: Path) -> None:
    machine = tmp_path / "lab" / "m1"
    machine.mkdir(parents=True)
    (machine / "disk.raw").write_bytes(b"\1" * 1_000_000)
    vbr("hypervisor", "add", "lab", "--plugin", "images", "--set", f"path={tmp_path / 'lab'}")
    vbr("repository", "add", "main", "--path", tmp_path / "repository", "--reserve", "1M", "--slots", "3")
    vbr("job", "create", "nightly", "--hypervisor", "lab", "--machine", "*", "--repository", "main")
    slots = {view["label"]: view for view in vbr.json("slots")}
    assert slots.keys() == {"server local", "proxy local", "repository default", "repository main"}
    main = slots["repository main"]
    assert (main["kind"], main["limit"], main["used"], main["closed"], main["holders"]) == ("repository", 3, 0, "", [])
    assert ["repository", "main", "0/3", "free", "0"] in [line.split() for line in vbr("slots").stdout.splitlines()]

    vbr("explain", "nightly", exit_code=4)
    vbr("job", "run", "nightly")
    view = vbr.json("explain", "nightly")
    assert (view["name"], view["state"], view["waits"], view["runs"]) == ("nightly", "ended", [], [])
    assert "nothing waits" in vbr("explain", view["session_id"]).stdout


def test_what_waits_is_printed_with_all_that_stands_in_its_way(capsys: pytest.CaptureFixture[str]) -> None:
    holder = HolderView("s2", "other", "t2", "m2", "d2", 2)
    host = UseView("host:p", "server p", 1, 2, 2, 0, "", lacks=True, holders=(holder,))
    repository = UseView("repository:r", "repository main", 1, 4, 2, 1, "", lacks=False, holders=())
    wait = WaitView(
        demand_id="t1",
        session_id="s1",
        name="nightly",
        machine="m1",
        disk="d1",
        reason="host_budget_used",
        detail="the server takes part in as many tasks as it may",
        place=3,
        of=7,
        starts_in_s=75.0,
        rank=RankView(355, 300, 30, 25),
        passed_since=None,
        kept=(),
        resources=(repository,),
        candidates=(CandidateView("p", "direct", "host_budget_used", "2 of 2", (host,)),),
        ahead=("t9",),
    )
    explain.print_wait(wait)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in (
        "waits m1 d1",
        "place 3 of 7",
        "starts in about 1 min 15 s",
        "rank 355 = class 300 + start 30 + ageing 25",
        "before it t9",
        "repository main 2/4, 1 kept -",
        "p direct: host_budget_used: 2 of 2",
        "server p 2/2 other m2 d2",
    ):
        assert line in lines
