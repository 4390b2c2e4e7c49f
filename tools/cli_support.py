"""`clusterd support`."""

import json
import os
import time

import click
import msgspec

from clusterd.exits import ExitCode
from clusterd.gate import has_node, no_node
from tools.show import echo, fail


@click.command()
@click.option("--output", "-o", default="", help="The archive; by default clusterd-support-HOST-TIME.tar.gz here.")
@click.option("--json", "as_json", is_flag=True, help="What is in it, for programs.")
@click.pass_obj
def support(root: str, output: str, as_json: bool) -> None:
    """Write one archive with what helps in trouble; never a secret."""
    from tools.support import collect  # loads much: not for --help

    if not has_node(root):
        fail(no_node(root), ExitCode.NOT_RUNNING)
    now = time.time()
    moment = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    target = output or f"clusterd-support-{os.uname().nodename}-{moment}.tar.gz"
    try:
        made = collect(root, target, now)
    except FileExistsError:
        fail(f"{target} is there already: give another --output")
    except OSError as problem:
        if problem.filename == target:
            fail(f"{target}: {problem.strerror}")
        if problem.filename is None:
            problem.filename = os.path.abspath(target)  # the disk of the archive, not the node's
        raise
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(made), indent=2))
        return
    echo(
        f"{made.path}: {made.size / 1024:.0f} KiB, {len(made.parts)} parts. It holds no key, token or hash of this "
        "node."
    )
    for name, why in made.missing.items():
        echo(f"left out: {name}: {why}")
    raise SystemExit(ExitCode.OK)
