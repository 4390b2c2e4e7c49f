"""What a check has found."""

import msgspec


class Finding(msgspec.Struct, frozen=True):
    """`name`: of the fault, a few plain words that stay the same. `what`: the fault, with the place; `cure`: what to do. `is_fault`
    false: worth a look only."""

    name: str
    what: str
    cure: str
    is_fault: bool = True
