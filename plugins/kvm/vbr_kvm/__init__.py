"""KVM machines of a local libvirt: see docs/kvm.md."""
