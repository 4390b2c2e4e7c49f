"""Errors between our own processes."""


class IpcError(Exception):
    """Base class of this package's errors."""


class BadMessage(IpcError):
    """Bytes on a channel that are no message: a bug of the sender, or another version."""


class NoCredit(IpcError):
    """A message cannot be delivered: its receiver is unknown, or made no room before the deadline."""


class ArenaFull(IpcError):
    """All slabs are leased."""


class StaleLease(IpcError):
    """A slab is returned or handed over by a process that does not hold it."""
