"""`restore disk | machine`."""

from __future__ import annotations

import argparse
import sys

from vbrcore.cli import follow, parser, paths, values
from vbrcore.cli.api import errors, operations, types
from vbrcore.cli.context import connect
from vbrcore.cli.parser import Nouns, Parser
from vbrcore.cli.stream import StreamReceiver

_FORMATS = ("raw", "qcow2", "vmdk", "vhdx")
_STDOUT = "-"


def add_parser(nouns: Nouns[Parser]) -> None:
    verbs = parser.noun(
        nouns,
        "restore",
        "restore disk POINT disk.qcow2 --output /srv/restored.qcow2 --format qcow2",
        "restore disk POINT disk.raw --output - | dd of=/dev/vg/copy bs=1M",
        "restore machine POINT --hypervisor kvm --name web-restored --power-on",
    )
    disk = parser.verb(
        verbs,
        "disk",
        _disk,
        "write one disk of a point to a new file, or to the standard output",
        "restore disk POINT disk.qcow2 --output /srv/restored.qcow2 --format qcow2",
        "restore disk POINT disk.raw --output - | dd of=/dev/vg/copy bs=1M",
    )
    disk.add_argument("point", metavar="POINT", help="a point id; see 'point list'")
    disk.add_argument("disk", metavar="DISK", help="the disk's name; see 'point show'")
    disk.add_argument("--output", required=True, metavar="FILE", help="a file that does not exist, or - for stdout")
    disk.add_argument("--format", choices=_FORMATS, default="raw", help="format of the file (%(default)s)")
    _add_machine(verbs)


def _add_machine(verbs: Nouns[Parser]) -> None:
    machine = parser.verb(
        verbs,
        "machine",
        _machine,
        "make a whole machine on a hypervisor again",
        "restore machine POINT --hypervisor kvm --name web",
        "restore machine POINT --hypervisor kvm --name web-copy --new-identity --directory /srv/images --power-on",
    )
    machine.add_argument("point", metavar="POINT", help="a point id; see 'point list'")
    machine.add_argument("--hypervisor", required=True, metavar="NAME", help="where to make it")
    machine.add_argument("--name", required=True, metavar="NAME", help="of the new machine")
    machine.add_argument("--power-on", action="store_true", help="start it when it is complete")
    machine.add_argument("--directory", metavar="DIR", help="where its disks go")
    machine.add_argument("--new-identity", action="store_true", help="new UUID and MAC addresses")
    machine.add_argument(
        "--trust-configuration", action="store_true", help="take the saved definition as it is, not only what is safe"
    )
    machine.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="options",
        help="an option of the plugin; may be repeated",
    )


def _disk(args: argparse.Namespace) -> int:
    if args.output == _STDOUT:
        return _disk_to_stdout(args)
    request = types.RestoreDisk(
        point=args.point, disk=args.disk, format=args.format, output=paths.absolute(args.output)
    )
    with connect(args) as client:
        return follow.follow(client, operations.RESTORE_DISK, request, as_json=args.json)


def _disk_to_stdout(args: argparse.Namespace) -> int:
    if args.format != "raw":
        raise errors.UsageError(f"a {args.format} file cannot be written to the standard output: use --format raw")
    if sys.stdout.isatty():
        raise errors.UsageError("a disk is not written to a terminal: redirect the standard output")
    with connect(args) as client, StreamReceiver(sys.stdout.fileno()) as receiver:
        request = types.RestoreDisk(point=args.point, disk=args.disk, stream=receiver.path, stream_token=receiver.token)
        view = follow.wait(client, operations.RESTORE_DISK, request, as_json=args.json, watch=receiver.check)
        if view.result != "failed":
            receiver.finish()
    return follow.conclude(view, as_json=args.json, stdout_is_data=True)


def _machine(args: argparse.Namespace) -> int:
    options = values.pairs(args.options, "--option")
    if args.directory is not None:
        options["directory"] = paths.absolute(args.directory)
    if args.new_identity:
        options["new_identity"] = "yes"
    if args.trust_configuration:
        options["trust_configuration"] = "yes"
    request = types.RestoreMachine(
        point=args.point, hypervisor=args.hypervisor, name=args.name, power_on=args.power_on, options=options
    )
    with connect(args) as client:
        return follow.follow(client, operations.RESTORE_MACHINE, request, as_json=args.json)
