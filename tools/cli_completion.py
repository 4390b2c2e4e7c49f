"""`clusterd completion`, and the names that it completes."""

import json
import os
from collections.abc import Callable
from typing import Any

import click

from clusterd.rundir import DEFAULT_ROOT, ELECTION_KEPT, STATE, run_dir

PROGRAM = "clusterd"
VARIABLE = "_CLUSTERD_COMPLETE"
HOWTO = {
    "bash": "clusterd completion bash > /usr/share/bash-completion/completions/clusterd",
    "zsh": "clusterd completion zsh > /usr/share/zsh/site-functions/_clusterd",
    "fish": "clusterd completion fish > /usr/share/fish/vendor_completions.d/clusterd.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(list(HOWTO)))
def completion(shell: str) -> None:
    """Print the completion of a shell: bash, zsh or fish. To have it for good:

    \b
    clusterd completion bash > /usr/share/bash-completion/completions/clusterd
    clusterd completion zsh > /usr/share/zsh/site-functions/_clusterd
    clusterd completion fish > /usr/share/fish/vendor_completions.d/clusterd.fish
    """
    from click.shell_completion import get_completion_class  # not for those who need `node_names`

    from tools.cli import cluster  # which loads this command

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cluster, {}, PROGRAM, VARIABLE).source())


def node_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Returns the names of the workers that the master of this root knows; none where they cannot be read. Sends no
    question to the node, because a completion must not wait."""
    found = _written(context, lambda root: os.path.join(root, STATE, "workers.json"))
    try:
        names = [row["name"] for row in found]
    except (KeyError, TypeError):
        return []
    return [name for name in names if name.startswith(incomplete)]


def candidate_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The same of the candidates that the election of this node knows."""
    found = _written(context, lambda root: os.path.join(run_dir(root), ELECTION_KEPT))
    names = found.get("members") if isinstance(found, dict) else []
    return [name for name in names or [] if str(name).startswith(incomplete)]


def _written(context: click.Context, path: Callable[[str], str]) -> Any:
    """What this file of the node says; an empty list where it cannot be read."""
    root = context.obj or context.find_root().params.get("root") or DEFAULT_ROOT
    try:
        with open(path(root), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return []
