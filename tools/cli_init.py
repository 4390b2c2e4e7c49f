"""`clusterd init`."""

import os

import click

from tools.init_node import init_node
from tools.show import echo


@click.command()
@click.option("--type", "node_type", type=click.Choice(["master", "worker"]), required=True, help="The node's role.")
@click.option("--name", required=True, help="The node's name, unique in the cluster.")
@click.option("--cluster", "cluster_name", default="wazuh", show_default=True, help="The cluster's name.")
@click.option("--key-file", type=click.Path(dir_okay=False), help="File with the cluster's key (or CLUSTERD_KEY).")
@click.option("--port", type=click.IntRange(1025, 65534), help="TCP port of the master.  [default: 1516]")
@click.option("--bind", default="0.0.0.0", show_default=True, help="Address that a master listens on.")
@click.option("--master", "master", metavar="HOST[:PORT]", help="Where a worker finds its master.")
@click.option("--api", "with_api", is_flag=True, help="Turn the REST API on, with a self-signed certificate.")
@click.pass_obj
def init(
    root: str,
    node_type: str,
    name: str,
    cluster_name: str,
    key_file: str | None,
    port: int | None,
    bind: str,
    master: str | None,
    with_api: bool,
) -> None:
    """Make a node's directory tree and configuration. Never overwrites."""
    if node_type == "worker" and master is None:
        raise click.UsageError("a worker needs to know its master: --master HOST[:PORT]")
    made = init_node(
        root,
        node_type=node_type,
        name=name,
        cluster=cluster_name,
        key_file=key_file,
        environment_key=os.environ.get("CLUSTERD_KEY"),
        port=port,
        bind=bind,
        master=master,
        with_api=with_api,
    )
    for line in made.lines:
        echo(line)
