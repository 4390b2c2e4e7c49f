"""`clusterd api`: turns the REST API on, and manages its users."""

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from clusterd.config.loading import load
from clusterd.errors import ClusterError, in_words
from clusterd.exits import ExitCode
from clusterd.gate import not_the_nodes_user
from clusterd.messages.replica import Mark, Marked
from clusterd.rights import DEFAULT_OWNER
from clusterd.rundir import replica_socket
from clusterd.users import (
    LONGEST_PASSWORD,
    ROLES,
    Role,
    UserProblem,
    add_user,
    make_user,
    read_users,
    remove_user,
    set_role,
)
from clusterd.wdb.replica import ReplicaStore
from tools.api_setup import next_steps, read_cluster_json, turn_on
from tools.asking import asked
from tools.show import echo, fail, show_lines

MARK_S = 75.0
"""clusterd.ha.synchronous_timeout is 60 s at most; a question to etcd may come before."""


@click.group()
def api() -> None:
    """The REST API: turn it on, and say who may use it."""


@api.command(short_help="Turn the API on.")
@click.option("--port", type=click.IntRange(1, 65535), help="TCP port.  [default: 55000]")
@click.pass_obj
def enable(root: str, port: int | None) -> None:
    """Turn the API on, with a self-signed certificate where there is none."""
    _need_nodes_user(root)
    loaded = load(root, with_api_files=False)
    if loaded.settings is None:
        show_lines([str(problem) for problem in loaded.problems])
        fail("the configuration has mistakes; nothing was changed", ExitCode.BAD_CONFIGURATION)
    for path in turn_on(root, read_cluster_json(root), name=loaded.settings.cluster.node_name, port=port):
        echo(f"Wrote {path}")
    for line in next_steps(root):
        echo(line)


@api.group()
def user() -> None:
    """Who may use the API."""


@user.command()
@click.argument("name")
@click.option("--password-file", type=click.Path(dir_okay=False), help="File with the password; - for standard input.")
@click.option(
    "--role",
    type=click.Choice(ROLES),
    help="reader: asks only, for no keys.  [default: the user's, admin for a new one]",
)
@click.pass_obj
def add(root: str, name: str, password_file: str | None, role: Role | None) -> None:
    """Add a user, or give one a new password. Without a file the password is asked for."""
    _need_nodes_user(root)
    made = make_user(name, _password(password_file), time.time())
    is_new = add_user(root, made, role, clock=time.time)
    if not is_new:
        time.sleep(1.01 - time.time() % 1)  # tokens of this second are void, also those of the new password
    echo(f"Added the user {name}." if is_new else f"The user {name} has a new password; older tokens are void.")
    _wait_for_candidate(root)


@user.command()
@click.argument("name")
@click.pass_obj
def remove(root: str, name: str) -> None:
    """Remove a user. Tokens of the user are void at once."""
    _need_nodes_user(root)
    remove_user(root, name)
    echo(f"Removed the user {name}.")
    _wait_for_candidate(root)


@user.command("role")
@click.argument("name")
@click.argument("role", type=click.Choice(ROLES))
@click.pass_obj
def change_role(root: str, name: str, role: Role) -> None:
    """Give a user another role. Counts at once, for tokens that are out, too."""
    _need_nodes_user(root)
    set_role(root, name, role)
    echo(f"The user {name} has the role {role}.")
    _wait_for_candidate(root)


@user.command("list")
@click.option("--json", "as_json", is_flag=True, help="The same facts for programs.")
@click.pass_obj
def list_users(root: str, as_json: bool) -> None:
    """List the users with their roles."""
    rows: list[dict[str, Any]] = [
        {"name": one.name, "role": one.role, "changed_at": one.changed_at} for one in read_users(root).values()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        echo("There is no user yet: clusterd api user add NAME", err=True)
    for row in rows:
        changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["changed_at"]))
        echo(f"{row['name']}  {row['role']}  (password set {changed})")


def _need_nodes_user(root: str) -> None:
    settings = load(root, with_api_files=False).settings
    closed = not_the_nodes_user(root, (settings.clusterd.owner if settings is not None else "") or DEFAULT_OWNER)
    if closed is not None:
        fail(closed)


def _wait_for_candidate(root: str) -> None:
    """A candidate keeps the users of its master: with it the change survives the loss of this node."""
    if not os.path.exists(replica_socket(root)):
        return
    try:
        answer = asyncio.run(ReplicaStore(root).ask(Mark(), MARK_S))
        why = msgspec.msgpack.decode(answer, type=Marked).why
    except (ClusterError, msgspec.MsgspecError) as failure:
        why = str(failure)
    if why:
        echo(f"No candidate has confirmed that, it may be lost with this node: {why}.", err=True)


def _password(file: str | None) -> str:
    """Reads the password. Never from the command line, where every user of the machine could read it."""
    if file is None:
        given = asked(lambda: click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
        if given is None:
            raise UserProblem("there is nobody to ask for the password: give --password-file")
        return str(given)
    try:
        if file == "-":
            if sys.stdin is None:  # closed by who started us
                raise UserProblem("there is no standard input to read the password from")
            text = sys.stdin.read(2 * LONGEST_PASSWORD)
        else:
            with Path(file).open(encoding="utf-8") as opened:
                text = opened.read(2 * LONGEST_PASSWORD)
    except (OSError, UnicodeDecodeError) as failure:
        raise UserProblem(f"the password cannot be read from {file}: {in_words(failure)}") from None
    return text.removesuffix("\n").removesuffix("\r")
