"""The result of a check."""

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """`name`: a few plain words for the fault that never change. `what`: the fault, with the place; `cure`: what to do.
    `is_fault` false: only worth a look."""

    name: str
    what: str
    cure: str
    is_fault: bool = True
