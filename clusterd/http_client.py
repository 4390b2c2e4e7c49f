"""httpx without its command line. Where rich and click are installed, as they are here, `import httpx` loads them and
all that they need for a program that no daemon runs: a twelfth of the CPU of a node's start, and 3 MB of its memory.

Below it httpcore looks for sniffio at each request. Where it is not installed, as with present versions of anyio, that
is a search through all directories of modules; it is made once here.

All of clusterd takes httpx from here."""

import importlib.util
import sys

_PROGRAM = "httpx._main"
_IS_LOADED = _PROGRAM in sys.modules

if not _IS_LOADED:
    sys.modules[_PROGRAM] = None  # type: ignore[assignment]  # import of it fails, which httpx bears
try:
    import httpx
finally:
    if not _IS_LOADED:
        sys.modules.pop(_PROGRAM)
if "sniffio" not in sys.modules and importlib.util.find_spec("sniffio") is None:
    sys.modules["sniffio"] = None  # type: ignore[assignment]

__all__ = ["httpx"]
