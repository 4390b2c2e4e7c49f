"""`clusterd store`."""

import click

from clusterd.store import backup as store_backup
from clusterd.store import renew as store_renew
from tools.show import fail


@click.group()
def store() -> None:
    """The agent database that this node serves."""


@store.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.pass_obj
def backup(root: str, file: str) -> None:
    """Write a copy of the agent database into FILE. The node goes on working.

    To restore it: stop the node, put the copy in the place of queue/db/global.db, start the node."""
    size = store_backup.backup(root, file)
    click.echo(f"{file}: {size} bytes")


@store.command()
@click.pass_obj
def renew(root: str) -> None:
    """Begin with an empty agent database; a damaged one is kept beside.

    A node that runs uses the new one within seconds. A master takes its agents from etc/client.keys, a worker gets them
    from its master; groups of agents that only the old database knew have to be assigned again."""
    try:
        moved = store_renew.renew(root)
    except OSError as failure:
        fail(f"the agent database cannot be moved: {failure.strerror}")
    if not moved:
        click.echo("There is no agent database; the store makes one when it starts.")
        return
    for path in moved:
        click.echo(f"Kept: {path}")
    click.echo("The store begins with an empty database.")
