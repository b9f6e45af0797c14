"""Whole machines back into libvirt."""

from typing import Any

from vbr_kvm.connection import find_domain, libvirt_errors
from vbr_kvm.settings import KvmSettings
from vbrcore.model.errors import CapabilityMissing
from vbrcore.plugins.api import RestorePlan, RestoreRequest


class Restores:
    def __init__(self, connection: Any, settings: KvmSettings) -> None:
        self._connection = connection
        self._settings = settings

    def plan(self, request: RestoreRequest) -> RestorePlan:
        raise CapabilityMissing(request.name)

    def create(self, request: RestoreRequest, plan: RestorePlan) -> str:
        raise CapabilityMissing(request.name)

    def remove(self, plan: RestorePlan) -> None:
        raise CapabilityMissing(plan.machine_id)

    def power_on(self, machine_id: str) -> None:
        domain = find_domain(self._connection, machine_id)
        with libvirt_errors(domain.name()):
            if not domain.isActive():
                domain.create()
