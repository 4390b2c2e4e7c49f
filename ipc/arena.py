"""Shared memory for bulk bytes: one anonymous memfd, cut into slabs, mapped before the fork.

Nothing appears in /dev/shm, and nothing is left when the processes are gone. Which slab may be used by whom is not
decided here but in the LeaseBooks of the two allocators: net has the first slabs, sync the rest.
"""

import mmap
import os

from ipc.descriptor import Descriptor

SLAB_BYTES = 7 * 1024 * 1024
"""A sealed body of 5 MiB plain bytes has 6,990,604."""


class Arena:
    """The mapping. Made by the supervisor, inherited by its children."""

    def __init__(self, slabs_of_net: int, slabs_of_sync: int, slab_bytes: int = SLAB_BYTES) -> None:
        self.slab_bytes = slab_bytes
        self.net_slabs = range(slabs_of_net)
        self.sync_slabs = range(slabs_of_net, slabs_of_net + slabs_of_sync)
        total = (slabs_of_net + slabs_of_sync) * slab_bytes
        fd = os.memfd_create("clusterd-arena", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, total)
            self._map = mmap.mmap(fd, total, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        finally:
            os.close(fd)
        self._view = memoryview(self._map)

    def view(self, slab: int) -> memoryview:
        """The whole slab, writable."""
        return self._view[slab * self.slab_bytes : (slab + 1) * self.slab_bytes]

    def slice(self, where: Descriptor) -> memoryview:
        """The bytes a descriptor means. Raises ValueError for one that leaves its slab."""
        if where.offset < 0 or where.length < 0 or where.offset + where.length > self.slab_bytes:
            raise ValueError(f"{where} leaves its slab of {self.slab_bytes} bytes")
        if where.slab not in self.net_slabs and where.slab not in self.sync_slabs:
            raise ValueError(f"there is no slab {where.slab}")
        start = where.slab * self.slab_bytes + where.offset
        return self._view[start : start + where.length]

    def free_pages(self, slab: int) -> None:
        """Give the slab's memory back to the system; it reads as zeros afterwards."""
        self._map.madvise(mmap.MADV_REMOVE, slab * self.slab_bytes, self.slab_bytes)

    def close(self) -> None:
        """Unmap; every view given out must be gone."""
        self._view.release()
        self._map.close()
