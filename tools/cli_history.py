"""`clusterd history` and `clusterd events`: what has happened on the node, from its journal. They read the file, so
they need no running node."""

import json
import os
import select
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import click

from clusterd.exits import ExitCode
from clusterd.gate import has_node, no_node
from clusterd.messages.journal import KINDS, OUTCOMES
from clusterd.monitor.journal_reader import Filter, JournalReader
from clusterd.rundir import journal_path
from clusterd.status.absence import is_running, not_running
from tools.cli_completion import node_names
from tools.history_view import colour, lines, now, parse_moment
from tools.show import end_quietly, fail, warn

POLL_S = 0.5
FOLLOWED_AT_ONCE = 1000


class Moment(click.ParamType):  # type: ignore[type-arg]  # not generic in older releases
    """Parses a moment into wall-clock seconds."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = parse_moment(str(value), now())
        if found is None:
            self.fail(f"{value} is no time; give 90s, 10m, 2h or 3d ago, or a date like 2026-11-30T03:04", param, ctx)
        return found


class EventKind(click.ParamType):  # type: ignore[type-arg]
    """A kind of event, or a kind and an outcome: worker, worker:lost."""

    name = "KIND"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        kind, colon, outcome = str(value).partition(":")
        if kind not in KINDS or (colon and outcome not in OUTCOMES[kind]):
            known = f"{kind}:{f', {kind}:'.join(OUTCOMES[kind])}" if OUTCOMES.get(kind) else ", ".join(KINDS)
            self.fail(f"{value} is no kind of event; known: {known}", param, ctx)
        return str(value)


kinds_option = click.option(
    "--kind", "kinds", type=EventKind(), multiple=True, help="Only this kind (may be repeated)."
)
since_option = click.option("--since", type=Moment(), help="From then on: 90s, 10m, 2h or 3d ago, or a date.")


@click.command()
@since_option
@click.option("--until", type=Moment(), help="Up to then.")
@click.option("--node", default="", shell_complete=node_names, help="Only what is about this node.")
@kinds_option
@click.option("--path", default="", metavar="GLOB", help="Only changes of files that match, like etc/rules/*.xml.")
@click.option(
    "--limit", "-n", type=click.IntRange(1, 100_000), default=50, show_default=True, help="The newest so many."
)
@click.option("--follow", "-f", "follows", is_flag=True, help="Go on as events come, until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="JSON, an event a line.")
@click.pass_obj
def history(
    root: str,
    since: float | None,
    until: float | None,
    node: str,
    kinds: tuple[str, ...],
    path: str,
    limit: int,
    follows: bool,
    as_json: bool,
) -> None:
    """Show what has happened: changes of files, syncs, registrations, logins, workers, problems."""
    if follows and until is not None:
        raise click.UsageError("--until does not go with --follow")
    wanted = Filter(since=since, until=until, kinds=kinds, node=node, path=path)
    reader = _reader(root)
    try:
        last = reader.last_seq()
        found = reader.latest(wanted, limit)
        if follows:
            _say_if_nothing_comes(root)
        elif not found:
            warn("nothing of that kind is in the journal" if last else f"the journal is empty: {journal_path(root)}")
            _say_if_it_is_off(root)
        for event in reversed(found):
            _show(event, as_json=as_json, files=limit if path else 5)
        if follows:
            for event in _following(root, reader, wanted, max([last, *(one["seq"] for one in found)])):
                _show(event, as_json=as_json, files=limit if path else 5)
    except KeyboardInterrupt:
        if not follows:
            raise
        end_quietly()
    except BrokenPipeError:
        end_quietly()  # whoever reads has had enough: neither a line nor a code says that something is wrong


@click.command()
@kinds_option
@since_option
@click.pass_obj
def events(root: str, kinds: tuple[str, ...], since: float | None) -> None:
    """Tell what happens, as JSON lines, until interrupted; also while the node is restarted."""
    wanted = Filter(kinds=kinds, since=since)
    reader = _reader(root)
    try:
        last = reader.last_seq() if since is None else 0
        _say_if_nothing_comes(root)
        for event in _following(root, reader, wanted, last):
            _show(event, as_json=True)
    except (KeyboardInterrupt, BrokenPipeError):
        end_quietly()  # whoever reads has had enough: neither a line nor a code says that something is wrong


def _say_if_nothing_comes(root: str) -> None:
    """Whoever waits for events learns why there are none; they come when that is over."""
    if not _say_if_it_is_off(root) and not is_running(root):
        warn(f"{not_running(root)} Until then nothing comes.")


def _say_if_it_is_off(root: str) -> bool:
    from clusterd.config.loading import load  # takes longer than reading the journal

    settings = load(root, with_api_files=False).settings
    is_off = settings is not None and not settings.clusterd.journal.enabled
    if is_off:
        warn("the journal of this node is off: clusterd.journal.enabled in etc/cluster.json")
    return is_off


def _reader(root: str) -> JournalReader:
    path = journal_path(root)
    if not has_node(root):
        fail(no_node(root), ExitCode.NOT_RUNNING)
    try:
        os.close(os.open(path, os.O_RDONLY))
    except FileNotFoundError:
        pass
    except PermissionError:
        fail(f"{path} may be read by its owner and group only")
    return JournalReader(path)


def _show(event: dict[str, Any], *, as_json: bool, files: int = 5) -> None:
    if as_json:
        # An escape of the stream's for what its encoding lacks (show.bear_any_text) would be no JSON.
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        click.echo(json.dumps(event, ensure_ascii=not encoding.lower().startswith("utf"), separators=(",", ":")))
        return
    width = shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else 0
    first, *more = lines(event, width, files=files)
    click.echo("\n".join([click.style(first, fg=colour(event)), *more]))


def _following(root: str, reader: JournalReader, wanted: Filter, after: int) -> Iterator[dict[str, Any]]:
    """Events behind `after`, as they are written. A journal that was begun anew is followed from its beginning."""
    if sys.stdout is None:  # closed by who started us
        raise BrokenPipeError
    hangup = select.poll()
    hangup.register(sys.stdout, 0)  # only that its reader is gone
    path, seen = journal_path(root), None
    while True:
        version = tuple(_version(f"{path}{suffix}") for suffix in ("", "-wal"))
        if version != seen:
            seen = version
            if reader.last_seq() < after:
                after = 0
            while found := reader.following(_behind(wanted, after), FOLLOWED_AT_ONCE):
                yield from found
                after = found[-1]["seq"]
        sys.stdout.flush()
        if hangup.poll(POLL_S * 1000):
            raise BrokenPipeError


def _behind(wanted: Filter, after: int) -> Filter:
    return Filter(after, wanted.since, wanted.until, wanted.kinds, wanted.node, wanted.path)


def _version(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
