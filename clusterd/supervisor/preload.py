"""What the children import only when they first need it, imported before the fork.

Libraries put off imports until somebody calls them. In a child that would be after privileges were dropped, perhaps years later,
when the package was replaced, moved away, or may not be read by the user that the node became. Forked children have all of it,
and share its memory. tests/field/test_imports.py watches every process of a node and names what is missing here.
"""

import importlib
import traceback

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
"""Some are parts that only some versions of a library have: what is not there will not be imported later either."""


def preload() -> None:
    """Import it all, and read what the standard library reads when it first formats a stack."""
    for name in MODULES:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    try:
        raise LookupError
    except LookupError:
        traceback.format_exc()
