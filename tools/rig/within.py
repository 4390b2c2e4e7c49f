"""What two commands of `clusterd` do, without a process of their own: tests make and ask nodes thousands of times.
`stop` needs nothing here: tools/stopping.py is such a function."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clusterd.status.status import StatusReader
from clusterd.status.verdict import verdict
from tools.init_node import init_node


def read_status(root: Path) -> dict[str, Any]:
    """Returns what `clusterd status --json` prints."""
    found = StatusReader(str(root)).read()
    printed: dict[str, Any] = json.loads(json.dumps({"verdict": verdict(found)._asdict(), **found}))
    return printed


def init_within(root: Path, options: Sequence[str], key: str) -> None:
    """Does what `clusterd init` does with these options, which all have a value."""
    given = dict(zip(options[::2], options[1::2], strict=True))
    init_node(
        str(root),
        node_type=given["--type"],
        name=given["--name"],
        cluster=given["--cluster"],
        key_file=None,
        environment_key=key,
        port=int(given["--port"]) if "--port" in given else None,
        bind=given.get("--bind", "0.0.0.0"),
        master=given.get("--master"),
    )
