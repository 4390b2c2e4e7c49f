"""`python -m benchmarks.reference --root DIR [--role master|worker]`: one node in the foreground; SIGTERM ends it."""

import argparse
import asyncio
import contextlib
import signal
from pathlib import Path

from benchmarks.reference.master import Master
from benchmarks.reference.node import Node
from benchmarks.reference.worker import Worker


async def serve(node: Node) -> None:
    work = asyncio.create_task((Master(node) if node.role == "master" else Worker(node)).run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await work


def main() -> None:
    parser = argparse.ArgumentParser(description="A plain cluster daemon, the stock way, to measure against.")
    parser.add_argument("--root", type=Path, required=True, help="the node's directory, with etc/ossec.conf")
    parser.add_argument("--role", choices=("master", "worker"), help="instead of what ossec.conf says")
    options = parser.parse_args()
    asyncio.run(serve(Node.load(options.root.resolve(), options.role)))


if __name__ == "__main__":
    main()
