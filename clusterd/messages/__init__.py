"""Every message between our own processes. Reading this package is reading the system.

All are small frozen tagged structs; sizes are in bytes, times in seconds (wall clock where the name ends in `_at`). No
bulk: bodies above INLINE_BYTES travel as Descriptors (arena) or as paths of spool files. Direction is said at each. A
job names its result: `class ScanShard(Job[ShardScanned])`.
"""
