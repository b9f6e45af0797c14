"""`repository add | import | rescan | passphrase | list | show | remove`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from vbrcore.cli import parser, paths, values
from vbrcore.cli.api import errors, operations, types
from vbrcore.cli.confirm import confirmed
from vbrcore.cli.context import call, connect
from vbrcore.cli.follow import follow
from vbrcore.cli.output import clean, print_fields, print_json, print_table, say, size
from vbrcore.cli.parser import Nouns, Parser

_CLASSES = {
    "clone": "space comes back by holes, fulls are made without moving data",
    "punch": "space comes back by holes",
    "copy": "space comes back when whole files are removed",
}
_LOCAL = "local"
_MOST_KEY_BYTES = 1024 * 1024  # of a key file; a passphrase is shorter


def add_parser(nouns: Nouns[Parser]) -> None:
    verbs = parser.noun(
        nouns, "repository", "repository add main --path /srv/backup", "repository list", "repository show main"
    )
    add = parser.verb(
        verbs,
        "add",
        _add,
        "add an absent or empty directory, of this or another server, or an SMB share as a repository",
        "repository add main --path /srv/backup",
        "repository add main --path /srv/backup --slots 4 --reserve 50G",
        "repository add main --path /srv/backup --encrypt --passphrase-file ./passphrase",
        "repository add far --server store1 --path /srv/backup --slots 2",
        "repository add share --smb //nas/backup --credential nas --gateway proxy1 --site berlin",
    )
    add.add_argument("name", metavar="NAME")
    place = add.add_mutually_exclusive_group(required=True)
    place.add_argument("--path", metavar="DIR", help="made where it is absent; must be empty else")
    place.add_argument("--smb", metavar="//HOST/SHARE[/DIR]", help="a share, or a directory of it; SMB 3 only")
    add.add_argument("--server", metavar="NAME", help="the managed server that --path is on (this machine)")
    add.add_argument("--credential", metavar="NAME", help="who logs in to the share: see 'credential add'")
    add.add_argument(
        "--gateway",
        action="append",
        default=[],
        metavar="NAME",
        help="a server that may open the share; may be given again (the one that serves it best)",
    )
    add.add_argument("--site", default="", metavar="NAME", help="where it stands (where its server does)")
    add.add_argument("--slots", type=int, metavar="N", help="tasks at once (from the number of cores)")
    add.add_argument(
        "--reserve", metavar="SIZE", help="space to leave free, e.g. 50G (10 %%, at least 5G but never more than 20 %%)"
    )
    add.add_argument("--rate-limit", metavar="SIZE", help="what each backup writes a second at most, e.g. 100M (none)")
    add.add_argument(
        "--proxy-affinity",
        action="append",
        default=[],
        metavar="NAME",
        help="a proxy that is preferred among equals; may be repeated",
    )
    add.add_argument("--encrypt", action="store_true", help="with a passphrase, a key file, or either of both")
    _add_key_files(add)
    passphrase = parser.verb(
        verbs,
        "passphrase",
        _passphrase,
        "change what an encrypted repository opens with",
        "repository passphrase main --passphrase-file ./new-passphrase",
    )
    passphrase.add_argument("name", metavar="NAME")
    _add_key_files(passphrase)
    bring = parser.verb(
        verbs,
        "import",
        _import,
        "take a directory with backup files into the inventory; what they say is all that is needed",
        "repository import /srv/backup --name main",
        "repository import /srv/backup --name main --passphrase-file ./passphrase",
    )
    bring.add_argument("path", metavar="DIR")
    bring.add_argument("--name", required=True, metavar="NAME")
    bring.add_argument("--slots", type=int, metavar="N", help="tasks at once (from the number of cores)")
    bring.add_argument("--reserve", metavar="SIZE", help="space to leave free, e.g. 50G")
    _add_key_files(bring)
    rescan = parser.verb(
        verbs,
        "rescan",
        _rescan,
        "learn of files that were added, moved or deleted by hand",
        "repository rescan main",
        "repository rescan main --passphrase-file ./passphrase",
    )
    rescan.add_argument("name", metavar="NAME")
    _add_key_files(rescan)
    parser.verb(verbs, "list", _list, "list repositories with their space and slots", "repository list --json")
    show = parser.verb(verbs, "show", _show, "show a repository", "repository show main")
    show.add_argument("name", metavar="NAME")
    remove = parser.verb(
        verbs,
        "remove",
        _remove,
        "remove a repository from the inventory; its backups stay",
        "repository remove main",
        "repository remove main --with-backups --confirm main",
    )
    remove.add_argument("name", metavar="NAME")
    remove.add_argument("--with-backups", action="store_true", help="delete its backup files too")
    remove.add_argument("--confirm", metavar="NAME", help="the name once more, instead of typing it when asked")


def _add_key_files(verb: Parser) -> None:
    verb.add_argument("--passphrase-file", metavar="FILE", help="one line; a final newline is not part of it")
    verb.add_argument("--key-file", metavar="FILE", help="32 bytes to 1 MiB, best random ones")


def _key_files(args: argparse.Namespace) -> types.KeyFiles | None:
    if args.passphrase_file is None and args.key_file is None:
        return None
    return types.KeyFiles(
        passphrase=None if args.passphrase_file is None else paths.content(args.passphrase_file, _MOST_KEY_BYTES),
        key_file=None if args.key_file is None else paths.content(args.key_file, _MOST_KEY_BYTES),
    )


def _add(args: argparse.Namespace) -> int:
    key = _key_files(args)
    if args.encrypt != (key is not None):
        raise errors.UsageError("--encrypt and --passphrase-file or --key-file go together")
    request = types.RepositoryAdd(
        name=args.name,
        path=_path(args),
        slots=args.slots,
        reserve_bytes=None if args.reserve is None else values.size_bytes(args.reserve),
        key=key,
        rate_limit_bytes_s=0 if args.rate_limit is None else values.size_bytes(args.rate_limit),
        proxy_affinity=tuple(args.proxy_affinity),
        server=args.server or _LOCAL,
        smb=args.smb or "",
        credential=args.credential or "",
        gateways=tuple(args.gateway),
        site=args.site,
    )
    view = call(args, operations.REPOSITORY_ADD, request)
    if args.json:
        print_json(view)
    else:
        shown = f"{size(view.free_bytes)} free, {view.slots} slots, class {view.storage_class}"
        print(f"repository {view.name} added: {view.path}, {shown}")
    return 0


def _path(args: argparse.Namespace) -> str:
    """Return the path as its server sees it: only that of this machine is made absolute here."""
    if args.path is None:
        return ""
    return paths.absolute(args.path) if args.server in {None, _LOCAL} else str(args.path)


def _import(args: argparse.Namespace) -> int:
    request = types.RepositoryImport(
        name=args.name,
        path=paths.absolute(args.path),
        slots=args.slots,
        reserve_bytes=None if args.reserve is None else values.size_bytes(args.reserve),
        key=_key_files(args),
    )
    view = call(args, operations.REPOSITORY_IMPORT, request)
    if args.json:
        print_json(view)
        return 0
    print(f"repository {view.name} imported: {view.path}, {len(view.chains)} chains")
    _print_chains(view.chains)
    return 0


def _rescan(args: argparse.Namespace) -> int:
    view = call(args, operations.REPOSITORY_RESCAN, types.RepositoryRescan(args.name, _key_files(args)))
    if args.json:
        print_json(view)
        return 0
    print(
        f"repository {view.name}: {len(view.added)} points added, {len(view.removed)} removed, {len(view.moved)} moved"
    )
    for directory in view.skipped:
        print(f"{clean(directory)} is being written: passed over")
    _print_chains(view.chains)
    for warning in view.warnings:
        say(f"warning: {warning}")
    return 0


def _print_chains(chains: Sequence[types.ChainView]) -> None:
    rows = [
        (
            v.directory,
            "(sealed)" if v.sealed else v.job,
            " ".join(v.machines),
            f"{v.whole_points}/{v.points}",
            str(len(v.missing_files) + len(v.unreadable_files)),
        )
        for v in chains
    ]
    print_table(("CHAIN", "JOB", "MACHINES", "WHOLE POINTS", "FILES MISSING"), rows)
    for view in chains:
        for file_id in view.missing_files:
            say(f"warning: {view.directory}: file {file_id} is missing; nothing is given back there meanwhile")
        for problem in (*view.unreadable_files, *view.warnings):
            say(f"warning: {problem}")
        for point in view.damaged_points:
            say(f"warning: point {point.point_id} of {point.machine or 'a sealed name'} is not whole: {point.reason}")


def _passphrase(args: argparse.Namespace) -> int:
    key = _key_files(args)
    if key is None:
        raise errors.UsageError("--passphrase-file or --key-file says what the repository is to open with")
    with connect(args) as client:
        request = types.RepositoryPassphrase(args.name, key)
        return follow(client, operations.REPOSITORY_PASSPHRASE, request, as_json=args.json)


def _list(args: argparse.Namespace) -> int:
    views = call(args, operations.REPOSITORY_LIST, types.Nothing())
    if args.json:
        print_json(views)
        return 0
    rows = [
        (
            v.name,
            v.state,
            v.storage_class or "-",
            f"{v.slots_used}/{v.slots}",
            size(v.stored_bytes),
            size(v.free_bytes),
            v.path,
        )
        for v in views
    ]
    print_table(("NAME", "STATE", "CLASS", "SLOTS", "STORED", "FREE", "PATH"), rows)
    return 0


def _show(args: argparse.Namespace) -> int:
    view = call(args, operations.REPOSITORY_SHOW, types.ByName(args.name))
    if args.json:
        print_json(view)
        return 0
    print_fields(
        {
            "name": view.name,
            "id": view.repository_id,
            "kind": view.kind,
            "server": view.server or "none yet",
            "site": view.site or "that of its server",
            "path": view.path,
            **_of_a_share(view),
            "encrypted": "yes" if view.encrypted else "no",
            "state": f"{view.state} ({view.reason})" if view.reason else view.state,
            "slots": f"{view.slots_used} of {view.slots} used",
            "class": f"{view.storage_class} ({_CLASSES[view.storage_class]})" if view.storage_class else "",
            "stored": f"{size(view.stored_bytes)} in {view.files} files, of it {size(view.live_bytes)} live",
            "rate limit": f"{size(view.rate_limit_bytes_s)}/s" if view.rate_limit_bytes_s else "none",
            "free": f"{size(view.free_bytes)} of {size(view.size_bytes)}, reserve {size(view.reserve_bytes)}",
        }
    )
    return 0


def _of_a_share(view: types.RepositoryView) -> dict[str, str]:
    if view.kind == "directory":
        return {}
    return {"credential": view.credential, "gateways": " ".join(view.gateways) or "the one that serves it best"}


def _remove(args: argparse.Namespace) -> int:
    confirm = args.confirm or ""
    if args.with_backups:
        confirm = confirmed(args.name, args.confirm, "deleting all backups of repository")
    request = types.Remove(args.name, with_backups=args.with_backups, confirm=confirm)
    reply = call(args, operations.REPOSITORY_REMOVE, request)
    if args.json:
        print_json(reply)
    else:
        print(f"repository {args.name} removed{' with its backups' if args.with_backups else ''}")
    return 0
