"""Shared memory for bulk data: one anonymous mapping, divided into slabs, made before the fork.

Nothing appears in /dev/shm, and nothing is left when the processes have ended. The LeaseBooks of the two allocators
decide who may use which slab: net has the first slabs, sync the rest.
"""

import mmap

from ipc.descriptor import Descriptor

SLAB_BYTES = 7 * 1024 * 1024
"""The sealed form of 5 MiB has 6,990,604 bytes."""
_MAP_NORESERVE = 0x4000
"""`mmap.MAP_NORESERVE`, which Python defines from 3.13 on."""


class Arena:
    """The mapping. The supervisor makes it, its children inherit it. Slabs cost memory only after they are written."""

    def __init__(self, slabs_of_net: int, slabs_of_sync: int, slab_bytes: int = SLAB_BYTES) -> None:
        """Raises ValueError for slabs that are not whole pages, or for no slabs."""
        if (
            slab_bytes <= 0
            or slab_bytes % mmap.PAGESIZE
            or min(slabs_of_net, slabs_of_sync) < 0
            or not (slabs_of_net + slabs_of_sync)
        ):
            raise ValueError(f"an arena of {slabs_of_net} + {slabs_of_sync} slabs of {slab_bytes} bytes")
        self.slab_bytes = slab_bytes
        self.net_slabs = range(slabs_of_net)
        self.sync_slabs = range(slabs_of_net, slabs_of_net + slabs_of_sync)
        total = (slabs_of_net + slabs_of_sync) * slab_bytes
        # Anonymous, so that no process keeps a descriptor of it. No memory is reserved: most slabs are rarely written.
        self._map = mmap.mmap(-1, total, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
        # Bodies of peers must not get into a core dump, which would also be large.
        self._map.madvise(mmap.MADV_DONTDUMP)
        self._view = memoryview(self._map)

    def view(self, slab: int) -> memoryview:
        """The whole slab, writable. Raises ValueError for an unknown slab."""
        start = self._start(slab)
        return self._view[start : start + self.slab_bytes]

    def slice(self, where: Descriptor) -> memoryview:
        """The bytes that a descriptor refers to. Raises ValueError for one that leaves its slab or names none."""
        if where.offset < 0 or where.length < 0 or where.offset + where.length > self.slab_bytes:
            raise ValueError(f"{where} leaves its slab of {self.slab_bytes} bytes")
        start = self._start(where.slab) + where.offset
        return self._view[start : start + where.length]

    def free_pages(self, slab: int) -> None:
        """Returns the slab's memory to the system for all processes; it reads as zeros afterwards. Views stay valid."""
        self._map.madvise(mmap.MADV_REMOVE, self._start(slab), self.slab_bytes)

    def close(self) -> None:
        """Unmaps in this process only. Raises BufferError while a view is still held."""
        self._view.release()
        self._map.close()

    def _start(self, slab: int) -> int:
        if not 0 <= slab < self.sync_slabs.stop:
            raise ValueError(f"there is no slab {slab}")
        return slab * self.slab_bytes
