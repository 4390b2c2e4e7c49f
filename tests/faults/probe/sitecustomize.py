"""Loaded by every Python of a rig that has this directory on its PYTHONPATH: SIGRTMIN has a process say what it has
allocated.

CLUSTERD_PROBE names a directory that all may write to; a file PID.NUMBER there has, in JSON:

    blocks   allocated blocks of Python's small objects
    bytes    what the C library has given out and not got back, without SQLite's
    sqlite   bytes that SQLite holds
"""

import ctypes
import gc
import json
import os
import signal
import sys
from types import FrameType

PLACE = os.environ.get("CLUSTERD_PROBE")
FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class _MallInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]


def _sqlite() -> int:
    try:
        import _sqlite3

        used = ctypes.CDLL(_sqlite3.__file__).sqlite3_memory_used
    except (ImportError, OSError, AttributeError):
        return 0
    used.restype = ctypes.c_int64
    return int(used())


def _tell(number: int, frame: FrameType | None) -> None:
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _MallInfo
    blocks, info, sqlite = sys.getallocatedblocks(), libc.mallinfo2(), _sqlite()
    found = {"blocks": blocks, "bytes": info.uordblks + info.hblkhd - sqlite, "sqlite": sqlite}
    path, turn = f"{PLACE}/{os.getpid()}", 0
    while os.path.exists(f"{path}.{turn}"):
        turn += 1
    with open(f"{path}.part", "w") as file:
        json.dump(found, file)
    os.rename(f"{path}.part", f"{path}.{turn}")


if PLACE:
    signal.signal(signal.SIGRTMIN, _tell)  # the children of the supervisor inherit it
