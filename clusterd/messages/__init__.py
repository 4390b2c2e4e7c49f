"""Every message between our own processes. This package gives an overview of the system.

All are small frozen tagged structs; sizes are in bytes, times in seconds (wall clock where the name ends in `_at`). No
bulk data: bodies above INLINE_BYTES travel as Descriptors (arena) or as paths of spool files. Each module or message
states its direction. A job names its result: `class ScanShard(Job[ShardScanned])`.
"""
