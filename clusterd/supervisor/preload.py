"""Imports before the fork what children would otherwise import when they first need it.

Libraries defer imports until a function is called. In a child that would happen after privileges were dropped, perhaps
years later, when the package was replaced, moved away, or is unreadable for the node's user. Forked children have all
modules and share their memory. tests/field/test_imports.py watches every process of a node and names what is missing
here.
"""

import importlib
import traceback

from clusterd.messages.links import NetToSync, SyncToNet
from clusterd.messages.pool import PoolToSync, SyncToPool
from clusterd.wire.seal import Sealer
from ipc.codec import Decoder

MODULES = (
    "_strptime",
    "anyio._backends._asyncio",
    "anyio.streams.tls",
    "asyncio.staggered",
    "certifi",
    "concurrent.futures.process",
    "concurrent.futures.thread",
    "encodings.ascii",
    "encodings.cp437",
    "encodings.idna",
    "encodings.latin_1",
    "encodings.unicode_escape",
    "encodings.utf_8_sig",
    "httpcore",
    "httpx._client",
    "locale",
    "stringprep",
    "uvicorn.lifespan.off",
    "uvicorn.lifespan.on",
    "uvicorn.logging",
    "uvicorn.loops.uvloop",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.protocols.websockets.auto",
)
"""Some of these exist in some versions of a library only; a missing one will not be imported later either."""


def preload() -> None:
    """Imports everything, loads what the standard library loads when it first formats a stack, and does once what costs
    each child milliseconds the first time: msgspec learns the messages, OpenSSL finds its ciphers."""
    for name in MODULES:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    try:
        raise LookupError
    except LookupError:
        traceback.format_exc()
    for messages in (NetToSync, SyncToNet, PoolToSync, SyncToPool):
        Decoder(messages)
    sealer = Sealer(bytes(32))
    sealer.open(sealer.seal(b""))
