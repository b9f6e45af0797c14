"""`job create | edit | list | show | run | stop | schedule | retention | delete`; more verbs stand in `upkeep`."""

from __future__ import annotations

import argparse

from vbrcore.cli import health, parser, placing, retention, schedule, upkeep
from vbrcore.cli.api import errors, jobs, operations, types
from vbrcore.cli.confirm import confirmed
from vbrcore.cli.context import call, connect
from vbrcore.cli.follow import follow
from vbrcore.cli.output import moment, print_fields, print_json, print_table, size
from vbrcore.cli.parser import Nouns, Parser

_BLOCK_SIZES = {"256K": 256 * 1024, "1M": 1024 * 1024, "4M": 4 * 1024 * 1024}
_COMPRESSIONS = ("none", "fast", "optimal", "high")


def add_parser(nouns: Nouns[Parser]) -> None:
    verbs = parser.noun(
        nouns,
        "job",
        "job create nightly --hypervisor lab --machine '*' --repository main",
        "job run nightly",
        "job schedule nightly --daily 22:00",
    )
    _add_create(verbs)
    parser.verb(verbs, "list", _list, "list jobs", "job list --json")
    show = parser.verb(verbs, "show", _show, "show a job", "job show nightly")
    show.add_argument("name", metavar="NAME")
    _add_run_and_stop(verbs)
    placing.add_verbs(verbs)
    schedule.add_verb(verbs)
    _add_retention(verbs)
    upkeep.add_verbs(verbs)
    _add_map(verbs)
    delete = parser.verb(
        verbs,
        "delete",
        _delete,
        "delete a job; its backups stay",
        "job delete nightly",
        "job delete nightly --with-backups --confirm nightly",
    )
    delete.add_argument("name", metavar="NAME")
    delete.add_argument("--with-backups", action="store_true", help="delete its backup files too")
    delete.add_argument("--confirm", metavar="NAME", help="the name once more, instead of typing it when asked")


def _add_create(verbs: Nouns[Parser]) -> None:
    create = parser.verb(
        verbs,
        "create",
        _create,
        "create a job",
        "job create nightly --hypervisor lab --machine '*' --repository main",
        "job create web --hypervisor kvm --machine 'web-*' --exclude web-test --repository main --quiesce",
        "job create offsite --from-repository main --machine '*' --repository second --keep 30",
    )
    create.add_argument("name", metavar="NAME")
    source = create.add_mutually_exclusive_group(required=True)
    source.add_argument("--hypervisor", metavar="NAME", help="back up machines of this hypervisor")
    source.add_argument("--from-repository", metavar="NAME", help="copy points of this repository as they are stored")
    create.add_argument("--repository", required=True, metavar="NAME", help="where the points are kept")
    create.add_argument(
        "--machine",
        action="append",
        required=True,
        metavar="PATTERN",
        dest="machines",
        help="a machine's name or a pattern with *, ? and [...]; may be repeated",
    )
    create.add_argument(
        "--exclude", action="append", default=[], metavar="PATTERN", help="machines to leave out; may be repeated"
    )
    create.add_argument("--block-size", choices=_BLOCK_SIZES, help="unit of dedup (1M)")
    create.add_argument("--compression", choices=_COMPRESSIONS, help="effort (fast)")
    create.add_argument("--quiesce", action="store_true", help="have guests flush their file systems first")
    placing.add_options(create)
    upkeep.add_options(create)
    create.add_argument(
        "--map-chain", default="", metavar="DIR", help="go on with a chain of the repository, e.g. an imported one"
    )
    retention.add_options(create)


def _add_run_and_stop(verbs: Nouns[Parser]) -> None:
    run = parser.verb(
        verbs,
        "run",
        _run,
        "run a job now and wait for it; Ctrl-C stops it gracefully, twice at once",
        "job run nightly",
        "job run nightly --json",
        "job run nightly --detach",
        "job run nightly --quick",
    )
    run.add_argument("name", metavar="NAME")
    run.add_argument("--detach", action="store_true", help="start it and do not wait")
    run.add_argument("--quick", action="store_true", help="before all other backups, because somebody waits for it")
    stop = parser.verb(
        verbs, "stop", _stop, "stop the running session of a job", "job stop nightly", "job stop nightly --now"
    )
    stop.add_argument("name", metavar="NAME")
    stop.add_argument("--now", action="store_true", help="do not let started machines finish")


def _add_retention(verbs: Nouns[Parser]) -> None:
    keep = parser.verb(
        verbs,
        "retention",
        _retention,
        "say what a job keeps from now on; 'retention preview' then shows what that means",
        "job retention nightly --keep 14 --keep-weekly 4 --keep-monthly 12",
    )
    keep.add_argument("name", metavar="NAME")
    retention.add_options(keep)


def _add_map(verbs: Nouns[Parser]) -> None:
    mapping = parser.verb(
        verbs,
        "map",
        _map,
        "have a job go on with a chain of its repository, e.g. an imported one",
        "job map nightly --directory nightly_1b2c3d4e",
    )
    mapping.add_argument("name", metavar="NAME")
    mapping.add_argument("--directory", required=True, metavar="DIR", help="as 'repository import' names it")


def _map(args: argparse.Namespace) -> int:
    view = call(args, operations.JOB_MAP, types.JobMap(args.name, args.directory))
    if args.json:
        print_json(view)
    else:
        print(f"job {view.name} goes on with {view.directory}")
    return 0


def _create(args: argparse.Namespace) -> int:
    if args.from_repository and (args.block_size or args.compression):
        raise errors.InvalidValue(
            "a backup copy has blocks as its source has stored them: no --block-size, --compression"
        )
    request = types.JobCreate(
        name=args.name,
        hypervisor=args.hypervisor or "",
        repository=args.repository,
        machines=tuple(args.machines),
        exclude=tuple(args.exclude),
        block_size_bytes=_BLOCK_SIZES[args.block_size or "1M"],
        compression=args.compression or "fast",
        quiesce=args.quiesce,
        retention=retention.retention_of(args),
        per_machine=args.per_machine,
        fulls=upkeep.fulls_of(args),
        from_repository=args.from_repository or "",
        map_chain=args.map_chain,
        priority=args.priority or "regular",
        proxies=tuple(args.proxies or ()),
        wait_for_best=args.wait_for_best_mode,
    )
    return _print(args, call(args, operations.JOB_CREATE, request), "created")


def _list(args: argparse.Namespace) -> int:
    views = call(args, operations.JOB_LIST, types.Nothing())
    if args.json:
        print_json(views)
        return 0
    rows = [
        (
            v.name,
            v.hypervisor or v.from_repository,
            v.repository,
            "running" if v.running else v.last_result or "-",
            moment(v.next_run),
            v.next_reason or "-",
            " ".join(v.machines),
        )
        for v in views
    ]
    print_table(("NAME", "FROM", "REPOSITORY", "LAST RESULT", "NEXT RUN", "WHY THEN", "MACHINES"), rows)
    return 0


def _show(args: argparse.Namespace) -> int:
    view = call(args, operations.JOB_SHOW, types.ByName(args.name))
    if args.json:
        print_json(view)
        return 0
    print_fields(
        {
            "name": view.name,
            "id": view.job_id,
            ("copy of" if view.from_repository else "hypervisor"): view.from_repository or view.hypervisor,
            "repository": view.repository,
            "machines": " ".join(view.machines),
            "exclude": " ".join(view.exclude),
            **_stored_as(view),
            "schedule": schedule.summary(view.schedule),
            "keeps": retention.summary(view.retention),
            "chains": _chains(view),
            "fulls": upkeep.summary(view.fulls),
            "upkeep": upkeep.window_summary(view.upkeep),
            "priority": view.priority,
            "proxies": "" if view.from_repository else placing.summary(view),
            "health": health.summary(view.health),
            "directory": view.directory,
            "next run": f"{moment(view.next_run)}{f' ({view.next_reason})' if view.next_reason else ''}",
            "last result": view.last_result or "-",
            "running": view.running or "",
        }
    )
    schedule.warn(view)
    return 0


def _chains(view: types.JobView) -> str:
    if view.from_repository:
        return "one for each of its source"
    return "one for each machine" if view.per_machine else "one for the job"


def _stored_as(view: types.JobView) -> dict[str, str]:
    """A backup copy says nothing of its own here: its blocks are as its source has them."""
    if view.from_repository:
        return {}
    return {
        "block size": size(view.block_size_bytes),
        "compression": view.compression,
        "quiesce": "yes" if view.quiesce else "no",
    }


def _run(args: argparse.Namespace) -> int:
    request = jobs.JobRun(args.name, quick=args.quick)
    with connect(args) as client:
        if not args.detach:
            return follow(client, operations.JOB_RUN, request, as_json=args.json)
        started = client.call(operations.JOB_RUN, request)
    if args.json:
        print_json(started)
    else:
        print(f"session {started.session_id} started")
    return 0


def _stop(args: argparse.Namespace) -> int:
    reply = call(args, operations.JOB_STOP, types.JobStop(args.name, now=args.now))
    if args.json:
        print_json(reply)
    else:
        print(f"job {args.name} is stopping")
    return 0


def _retention(args: argparse.Namespace) -> int:
    view = call(args, operations.JOB_RETENTION, types.JobRetention(args.name, retention.retention_of(args)))
    if args.json:
        print_json(view)
    else:
        print(f"job {view.name} keeps {retention.summary(view.retention)}")
    return 0


def _delete(args: argparse.Namespace) -> int:
    confirm = args.confirm or ""
    if args.with_backups:
        confirm = confirmed(args.name, args.confirm, "deleting all backups of job")
    reply = call(args, operations.JOB_DELETE, types.Remove(args.name, with_backups=args.with_backups, confirm=confirm))
    if args.json:
        print_json(reply)
    else:
        print(f"job {args.name} deleted{' with its backups' if args.with_backups else ''}")
    return 0


def _print(args: argparse.Namespace, view: types.JobView, done: str) -> int:
    if args.json:
        print_json(view)
    else:
        print(f"job {view.name} {done}: {schedule.summary(view.schedule)}")
    schedule.warn(view)
    return 0
