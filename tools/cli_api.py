"""`clusterd api`: turns the REST API on, and manages its users."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from clusterd.config.loading import load
from clusterd.errors import in_words
from clusterd.exits import ExitCode
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
from tools.api_setup import SetupProblem, next_steps, read_cluster_json, turn_on
from tools.asking import asked
from tools.show import echo, fail, show_lines


@click.group()
def api() -> None:
    """The REST API: turn it on, and say who may use it."""


@api.command()
@click.option("--port", type=click.IntRange(1, 65535), help="TCP port.  [default: 55000]")
@click.pass_obj
def enable(root: str, port: int | None) -> None:
    """Turn the API on, with a self-signed certificate where there is none."""
    loaded = load(root, with_api_files=False)
    if loaded.settings is None:
        show_lines([str(problem) for problem in loaded.problems])
        fail("the configuration has mistakes; nothing was changed", ExitCode.BAD_CONFIGURATION)
    try:
        made = turn_on(root, read_cluster_json(root), name=loaded.settings.cluster.node_name, port=port)
    except SetupProblem as problem:
        fail(str(problem))
    for path in made:
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
    try:
        made = make_user(name, _password(password_file), time.time())
        is_new = add_user(root, made, role, clock=time.time)
    except UserProblem as problem:
        fail(str(problem))
    if not is_new:
        time.sleep(1.01 - time.time() % 1)  # tokens of this second are void, also those of the new password
    echo(f"Added the user {name}." if is_new else f"The user {name} has a new password; older tokens are void.")


@user.command()
@click.argument("name")
@click.pass_obj
def remove(root: str, name: str) -> None:
    """Remove a user. Tokens of the user are void at once."""
    try:
        remove_user(root, name)
    except UserProblem as problem:
        fail(str(problem))
    echo(f"Removed the user {name}.")


@user.command("role")
@click.argument("name")
@click.argument("role", type=click.Choice(ROLES))
@click.pass_obj
def change_role(root: str, name: str, role: Role) -> None:
    """Give a user another role. Counts at once, for tokens that are out, too."""
    try:
        set_role(root, name, role)
    except UserProblem as problem:
        fail(str(problem))
    echo(f"The user {name} has the role {role}.")


@user.command("list")
@click.option("--json", "as_json", is_flag=True, help="The same facts for programs.")
@click.pass_obj
def list_users(root: str, as_json: bool) -> None:
    """List the users with their roles."""
    try:
        users = read_users(root)
    except UserProblem as problem:
        fail(str(problem))
    rows: list[dict[str, Any]] = [
        {"name": one.name, "role": one.role, "changed_at": one.changed_at} for one in users.values()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        echo("There is no user yet: clusterd api user add NAME", err=True)
    for row in rows:
        changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["changed_at"]))
        echo(f"{row['name']}  {row['role']}  (password set {changed})")


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
