"""Backs up and recovers virtual machines of every hypervisor."""

__version__ = "0.1.0"
