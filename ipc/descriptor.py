"""Names bulk bytes in the arena. Messages carry Descriptors, never the bulk bytes themselves."""

import msgspec


class Descriptor(msgspec.Struct, frozen=True, array_like=True):
    """`length` bytes at `offset` of slab `slab`. `checksum` is their xxh3_64, 0 where it was not computed. `life`: of
    the allocating process that lent the slab (its successor lends slabs of the same numbers), 0 where that does not
    matter."""

    slab: int
    offset: int
    length: int
    checksum: int = 0
    life: int = 0
