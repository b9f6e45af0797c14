"""`server add | list | show | check | edit | remove`."""

from __future__ import annotations

import argparse
import getpass
import sys
from typing import TYPE_CHECKING, Literal

from vbrcore.cli import parser, paths
from vbrcore.cli.api import errors, operations, servers, types
from vbrcore.cli.context import call, connect
from vbrcore.cli.output import clean, moment, print_fields, print_json, print_table, say, size
from vbrcore.cli.parser import Nouns, Parser

if TYPE_CHECKING:
    from vbrcore.api.client import Client

    Login = Literal["identity", "password", "agent"]

_ROLES = ("proxy", "repository", "gateway")
_EXIT_FOUND = 20
_SSH_PORT = 22


def add_parser(nouns: Nouns[Parser]) -> None:
    verbs = parser.noun(
        nouns,
        "server",
        "server add proxy1 --ssh backup@proxy1.example --role proxy --slots 4",
        "server list",
        "server check proxy1",
    )
    _add_add(verbs)
    parser.verb(verbs, "list", _list, "list managed servers, their roles and slots", "server list --json")
    show = parser.verb(verbs, "show", _show, "show a server: versions, ports, slots, what is missing", "server show p1")
    show.add_argument("name", metavar="NAME")
    check = parser.verb(
        verbs,
        "check",
        _check,
        "log in to a server and say what is missing there and how to mend it",
        "server check proxy1",
        "server check proxy1 --json",
    )
    check.add_argument("name", metavar="NAME")
    edit = parser.verb(
        verbs,
        "edit",
        _edit,
        "change a server's roles, slots or where it is reached; this machine is the server local",
        "server edit local --slots 8 --host-budget 8",
        "server edit proxy1 --role proxy --role repository --site berlin",
    )
    edit.add_argument("name", metavar="NAME")
    _add_settings(edit)
    edit.add_argument("--no-role", action="store_true", help="take all roles from it")
    edit.add_argument("--no-dials-only", action="store_true", help="others dial it again")
    remove = parser.verb(
        verbs, "remove", _remove, "remove a server that nothing uses; nothing is deleted there", "server remove proxy1"
    )
    remove.add_argument("name", metavar="NAME")


def _add_add(verbs: Nouns[Parser]) -> None:
    add = parser.verb(
        verbs,
        "add",
        _add,
        "add a server that is reached over SSH; it needs Linux and Python 3.11 or newer, and no root",
        "server add proxy1 --ssh backup@proxy1.example --role proxy --slots 4",
        "server add store --ssh backup@10.0.0.5:2222 --identity ~/.ssh/id_ed25519 --role repository --site berlin",
        "server add store --ssh backup@10.0.0.5 --password-file ./password --accept-host-key --role proxy",
    )
    add.add_argument("name", metavar="NAME")
    add.add_argument("--ssh", required=True, metavar="USER@HOST[:PORT]", help="how to log in there")
    login = add.add_mutually_exclusive_group()
    login.add_argument("--identity", metavar="FILE", help="a private key without a passphrase; it is sealed")
    login.add_argument("--password-file", metavar="FILE", help="a file with the password; it is sealed")
    add.add_argument("--accept-host-key", action="store_true", help="pin the key that the host shows, without asking")
    _add_settings(add)


def _add_settings(command: Parser) -> None:
    command.add_argument(
        "--role",
        action="append",
        choices=_ROLES,
        dest="roles",
        help="proxy: reads disks; repository: has backup files; gateway: writes to shares; may be repeated",
    )
    command.add_argument("--slots", type=int, metavar="N", help="disks that it reads at once (its number of cores)")
    command.add_argument(
        "--host-budget", type=int, metavar="N", help="tasks that it takes part in at once (its cores, or its slots)"
    )
    command.add_argument("--site", metavar="S", help="where it stands: data stays within a site where it can")
    command.add_argument("--address", metavar="A", help="where other servers dial its data ports (the host of --ssh)")
    command.add_argument("--ports", metavar="LO-HI", help="TCP ports for data, while a task runs (46200-46299)")
    command.add_argument("--dials-only", action="store_true", help="nobody can dial it: its movers dial out")


def _add(args: argparse.Namespace) -> int:
    user, host, port = _where(args.ssh)
    login, secret = _given_secret(args)
    with connect(args) as client:
        key = _accepted_key(client, host, port, accept=args.accept_host_key)
        request = servers.ServerAdd(
            name=args.name,
            host=host,
            user=user,
            host_key=key,
            port=port,
            login=login,
            secret=secret,
            roles=tuple(args.roles or ()),
            slots=args.slots,
            host_budget=args.host_budget,
            site=args.site or "",
            address=args.address or "",
            dials_only=args.dials_only,
            **_ports(args),
        )
        try:
            view = client.call(operations.SERVER_ADD, request)
        except errors.LoginRefused as error:
            if login != "agent" or not sys.stdin.isatty():
                raise
            say(str(error))
            view = client.call(operations.SERVER_ADD, _with_password(request, user, host))
    if args.json:
        print_json(view)
    else:
        print(f"server {view.name} added: {clean(view.os)}, Python {clean(view.python) or 'missing'}")
        _print_findings(view)
    return 0


def _where(text: str) -> tuple[str, str, int]:
    """Read "user@host", "user@host:port" or "user@[v6 address]:port"."""
    user, at, place = text.rpartition("@")
    host, colon, port = place, "", ""
    if place.startswith("["):
        host, _, rest = place[1:].partition("]")
        colon, port = rest[:1], rest[1:]
    elif place.count(":") == 1:
        host, colon, port = place.partition(":")
    if not user or not at or not host or (colon and not port.isdecimal()):
        raise errors.InvalidValue(f"--ssh {text!r}: give USER@HOST or USER@HOST:PORT")
    return user, host, int(port) if colon else _SSH_PORT


def _given_secret(args: argparse.Namespace) -> tuple[Login, str]:
    if args.identity:
        return "identity", paths.secret_file(args.identity) + "\n"  # a key file ends with its last line's end
    if args.password_file:
        return "password", paths.secret_file(args.password_file)
    return "agent", ""


def _with_password(request: servers.ServerAdd, user: str, host: str) -> servers.ServerAdd:
    import msgspec  # noqa: PLC0415 - see vbrcore.cli.api

    password = getpass.getpass(f"Password of {clean(user)} at {clean(host)}: ")
    return msgspec.structs.replace(request, login="password", secret=password)


def _accepted_key(client: Client, host: str, port: int, *, accept: bool) -> str:
    """Show the host's key and return it once it was accepted. Raises `HostKeyUnconfirmed`."""
    shown = client.call(operations.SERVER_PROBE, servers.HostKeyProbe(host, port))
    kind = shown.host_key.partition(" ")[0]
    say(f"{host} port {port} shows {kind} {shown.fingerprint}")
    if accept:
        return shown.host_key
    if not sys.stdin.isatty():
        raise errors.HostKeyUnconfirmed(f"the host key {shown.fingerprint} of {host} was not accepted")
    print("Is that its key? Type yes to pin it: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() != "yes":
        raise errors.HostKeyUnconfirmed(f"the host key {shown.fingerprint} of {host} was not accepted")
    return shown.host_key


def _ports(args: argparse.Namespace) -> dict[str, tuple[int, int]]:
    if args.ports is None:
        return {}
    low, dash, high = args.ports.partition("-")
    if not dash or not low.isdecimal() or not high.isdecimal():
        raise errors.InvalidValue(f"--ports {args.ports!r}: give LO-HI, e.g. 46200-46299")
    return {"ports": (int(low), int(high))}


def _list(args: argparse.Namespace) -> int:
    views = call(args, operations.SERVER_LIST, types.Nothing())
    if args.json:
        print_json(views)
        return 0
    rows = [
        (
            v.name,
            v.ssh or "this machine",
            " ".join(v.roles) or "-",
            f"{v.proxy_slots_used}/{v.proxy_slots}",
            f"{v.host_budget_used}/{v.host_budget}",
            v.site or "-",
            v.state + ("" if not v.findings else f", {len(v.findings)} remarks"),
        )
        for v in views
    ]
    print_table(("NAME", "SSH", "ROLES", "PROXY SLOTS", "HOST BUDGET", "SITE", "STATE"), rows)
    return 0


def _show(args: argparse.Namespace) -> int:
    view = call(args, operations.SERVER_SHOW, types.ByName(args.name))
    if args.json:
        print_json(view)
    else:
        _print(view)
    return 0


def _check(args: argparse.Namespace) -> int:
    """Exit with 20 where something is missing without which the server is of no use."""
    view = call(args, operations.SERVER_CHECK, types.ByName(args.name))
    if args.json:
        print_json(view)
    else:
        _print(view)
    return _EXIT_FOUND if any(one.level == "error" for one in view.findings) else 0


def _print(view: servers.ServerView) -> None:
    low, high = view.ports
    print_fields(
        {
            "name": view.name,
            "id": view.server_id,
            "ssh": f"{view.ssh} by {view.login}" if view.ssh else "this machine",
            "host key": view.host_key,
            "roles": " ".join(view.roles) or "none",
            "proxy slots": f"{view.proxy_slots_used} of {view.proxy_slots} used",
            "host budget": f"{view.host_budget_used} of {view.host_budget} used",
            "site": view.site,
            "data ports": "dials out only" if view.dials_only else f"{view.address} {low}-{high}".strip(),
            "state": view.state + (f": {view.reason}" if view.reason else ""),
            "tried again": moment(view.next_try) if view.next_try else "",
            "checked": moment(view.checked) if view.checked else "never",
            "system": f"{view.os} on {view.machine}" if view.os else "",
            "python": view.python or ("missing" if view.checked else ""),
            "movers": view.bundle,
            "free": "" if view.free_bytes is None else size(view.free_bytes),
            "clock": "" if view.clock_offset_s is None else f"{view.clock_offset_s:+.1f} s from ours",
        }
    )
    _print_findings(view)


def _print_findings(view: servers.ServerView) -> None:
    for one in view.findings:
        print(clean(f"{one.level}: {one.text} ({one.code})"))
        print(clean(f"  {one.hint}"))


def _edit(args: argparse.Namespace) -> int:
    if args.roles and args.no_role:
        raise errors.UsageError("--role and --no-role exclude each other")
    if args.dials_only and args.no_dials_only:
        raise errors.UsageError("--dials-only and --no-dials-only exclude each other")
    roles = () if args.no_role else tuple(args.roles) if args.roles else None
    request = servers.ServerEdit(
        name=args.name,
        roles=roles,
        slots=args.slots,
        host_budget=args.host_budget,
        site=args.site,
        address=args.address,
        dials_only=True if args.dials_only else False if args.no_dials_only else None,
        **_ports(args),
    )
    view = call(args, operations.SERVER_EDIT, request)
    if args.json:
        print_json(view)
    else:
        print(f"server {view.name} changed")
    return 0


def _remove(args: argparse.Namespace) -> int:
    reply = call(args, operations.SERVER_REMOVE, types.Remove(args.name))
    if args.json:
        print_json(reply)
    else:
        print(f"server {args.name} removed")
    return 0
