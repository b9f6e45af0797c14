"""How the suite is split where several processes run it (`pytest -n 2 --dist loadfile`), and what no test looks at."""

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

# How long an example takes says how busy the machine is.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

# Folders whose files stay together: libvirtd with guests that are shared, the hosts of the lab, mounted file systems.
TOGETHER = ("plugins/kvm/", "tests/lab/", "tests/storage/")


class ByFile(LoadFileScheduling):  # type: ignore[misc]
    """The tests of a file stay in one process, because they share what their module set up."""

    def _split_scope(self, nodeid: str) -> str:
        return next((folder for folder in TOGETHER if nodeid.startswith(folder)), nodeid.partition("::")[0])


@pytest.hookimpl
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFile:
    return ByFile(config, log)
