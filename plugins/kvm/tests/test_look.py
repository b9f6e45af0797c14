"""Images that cannot be read are found through the definitions of a real libvirt."""

from typing import Any

from vbr_kvm.host import LocalHost
from vbr_kvm.look import unreadable_images
from vbr_kvm.plugin import PLUGIN
from vbr_kvm.settings import KvmSettings
from vbrcore.plugins.api import Looks


def test_an_image_that_cannot_be_read_is_named(own_guest: Any) -> None:
    path = own_guest.disks[0][2]
    host = LocalHost(KvmSettings())
    assert str(path) not in unreadable_images(host)
    path.rename(path.with_suffix(".away"))
    assert str(path) in unreadable_images(host)
    assert isinstance(PLUGIN, Looks)
    (found,) = PLUGIN.look(KvmSettings(), {}, None)
    assert (found.code, found.level) == ("images_unreadable", "warning")
    assert "setfacl" in found.hint
