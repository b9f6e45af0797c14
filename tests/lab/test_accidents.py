"""A link is cut in a session: another server goes on, and nothing is left on any. The longer ones: accidents.py."""

from functools import partial

import pytest

from tests.lab.accidents import begun, set_up, wait_for
from tests.lab.scene import Scene

pytestmark = pytest.mark.timeout(400)


def test_a_disk_is_read_elsewhere_when_its_proxy_is_cut_off(scene: Scene) -> None:
    set_up(scene, "cut", "repo1", "--proxy", "proxy1", "--proxy", "proxy2")
    session_id, content = begun(scene, "cut", "repo1", seed=12)
    first = str(scene.disk(scene.session(session_id))["server"])
    assert scene.disk(scene.session(session_id))["why"]
    scene.lab.cut(first)
    ended = scene.end_of(session_id)
    scene.lab.mend(first)
    task = scene.disk(ended)
    assert ended["result"] in {"success", "warning"}
    assert {first, task["server"]} == {"proxy1", "proxy2"}
    assert task["attempt"] > 1
    scene.assert_whole("cut", content)


def is_quiet(scene: Scene, host: str) -> bool:
    return not scene.processes(host, "vbrcore")


def test_nothing_stays_on_the_servers_but_the_bundle(scene: Scene) -> None:
    content = set_up(scene, "tidy", "repo2")
    scene.assert_whole("tidy", content)
    scene.vbr("service", "stop")
    for name, host in scene.lab.hosts.items():
        wait_for(partial(is_quiet, scene, name), f"processes are left on {name}", 30)
        assert not scene.processes(name, "python"), name
        ports = {line.split()[3].rsplit(":", 1)[1] for line in scene.lab.exec(name, "ss", "-Hltn").splitlines()}
        assert ports <= {"22", "139", "445"}, name
        assert "vbr" not in scene.lab.exec(name, "ss", "-Hlx"), name
        left = scene.lab.exec(name, "sh", "-c", "find /tmp /run /var/tmp -maxdepth 2 -name 'vbr-*' 2>/dev/null; true")
        assert left == "", name
        if host["role"] in {"proxy", "repository", "gateway"}:
            home = f"/home/{scene.lab.user}"
            found = scene.lab.exec(name, "find", home, "-mindepth", "1", "-maxdepth", "1", "-name", ".cache").split()
            assert found in ([], [f"{home}/.cache"])
            inside = scene.lab.exec(name, "sh", "-c", f"ls -A {home}/.cache 2>/dev/null; true").split()
            assert inside in ([], ["vbrcore"])
