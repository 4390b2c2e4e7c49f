"""Maps a file without keeping its descriptor open. `mmap.mmap` keeps one as long as the mapping lives (up to Python
3.13 this cannot be turned off), and every process of a node would have it."""

import ctypes
import mmap
import os

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_FAILED = ctypes.c_void_p(-1).value


class Mapping:
    """The first `size` bytes of an open file, shared with everyone who maps it. `memory` shows and changes them."""

    def __init__(self, fd: int, size: int) -> None:
        """Raises OSError."""
        address = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
        if address == _FAILED:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._address, self._size = address, size
        self.memory = memoryview((ctypes.c_char * size).from_address(address)).cast("B")

    def close(self) -> None:
        """Release all views of `memory` first. May be called twice."""
        self.memory.release()
        if self._size:
            _libc.munmap(self._address, self._size)
            self._size = 0
