"""What can go wrong between our own processes."""


class IpcError(Exception):
    """Base of the errors of this package."""


class BadMessage(IpcError):
    """Bytes on a channel that are no message of it: a bug of the sender, or another version."""


class NoCredit(IpcError):
    """A message cannot be handed over: its receiver is unknown, or did not make room before the deadline."""


class ArenaFull(IpcError):
    """All slabs are leased."""


class StaleLease(IpcError):
    """A slab is given back or handed over by someone who does not hold it."""
