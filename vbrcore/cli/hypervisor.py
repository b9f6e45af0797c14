"""`hypervisor add | list | show | remove`."""

from __future__ import annotations

import argparse

from vbrcore.cli import parser, paths, values
from vbrcore.cli.api import operations, types
from vbrcore.cli.context import call
from vbrcore.cli.output import print_fields, print_json, print_table
from vbrcore.cli.parser import Nouns, Parser


def add_parser(nouns: Nouns[Parser]) -> None:
    verbs = parser.noun(
        nouns,
        "hypervisor",
        "hypervisor add lab --plugin images --set path=/srv/machines",
        "hypervisor add kvm --plugin kvm --set uri=qemu:///system",
        "hypervisor add kvm1 --plugin kvm --set uri=qemu+ssh://root@kvm1/system --server kvm1",
        "hypervisor list",
    )
    add = parser.verb(
        verbs,
        "add",
        _add,
        "add a hypervisor to the inventory",
        "hypervisor add lab --plugin images --set path=/srv/machines",
        "hypervisor add kvm --plugin kvm --set uri=qemu:///system",
        "hypervisor add kvm1 --plugin kvm --set uri=qemu+ssh://root@host/system --server host",
    )
    add.add_argument("name", metavar="NAME")
    add.add_argument("--plugin", required=True, metavar="ID", help="what speaks to it; see 'plugins list'")
    add.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help="a setting of the plugin"
    )
    add.add_argument(
        "--set-file",
        action="append",
        default=[],
        metavar="KEY=FILE",
        dest="secrets",
        help="a secret setting, read from a file and sealed",
    )
    add.add_argument(
        "--server", metavar="NAME", default="local", help="the managed server that is its host (this machine: local)"
    )
    parser.verb(verbs, "list", _list, "list hypervisors", "hypervisor list --json")
    show = parser.verb(verbs, "show", _show, "show a hypervisor and its settings", "hypervisor show lab")
    show.add_argument("name", metavar="NAME")
    remove = parser.verb(verbs, "remove", _remove, "remove a hypervisor; no backups go", "hypervisor remove lab")
    remove.add_argument("name", metavar="NAME")


def _add(args: argparse.Namespace) -> int:
    secrets = values.pairs(args.secrets, "--set-file")
    request = types.HypervisorAdd(
        name=args.name,
        plugin=args.plugin,
        settings=paths.with_absolute_paths(values.pairs(args.settings, "--set")),
        secrets={key: paths.secret_file(path) for key, path in secrets.items()},
        server=args.server,
    )
    view = call(args, operations.HYPERVISOR_ADD, request)
    if args.json:
        print_json(view)
    else:
        print(f"hypervisor {view.name} added")
    return 0


def _list(args: argparse.Namespace) -> int:
    views = call(args, operations.HYPERVISOR_LIST, types.Nothing())
    if args.json:
        print_json(views)
    else:
        print_table(
            ("NAME", "PLUGIN", "SERVER", "SETTINGS"), [(v.name, v.plugin, v.server, _settings(v)) for v in views]
        )
    return 0


def _show(args: argparse.Namespace) -> int:
    view = call(args, operations.HYPERVISOR_SHOW, types.ByName(args.name))
    if args.json:
        print_json(view)
    else:
        print_fields(
            {
                "name": view.name,
                "id": view.hypervisor_id,
                "plugin": view.plugin,
                "server": view.server,
                "settings": _settings(view),
            }
        )
    return 0


def _remove(args: argparse.Namespace) -> int:
    reply = call(args, operations.HYPERVISOR_REMOVE, types.Remove(args.name))
    if args.json:
        print_json(reply)
    else:
        print(f"hypervisor {args.name} removed")
    return 0


def _settings(view: types.HypervisorView) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(view.settings.items()))
