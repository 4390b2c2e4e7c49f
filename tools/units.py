"""Numbers in the form that every command shows. Imports nothing, for commands that answer at once (`span`:
status/verdict.py)."""


def size(count: float | None) -> str:
    """Shows bytes for people: 1.2 MiB. The dashboard does the same (words.js)."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def natural(name: str) -> list[tuple[int, int | str]]:
    """A key for sorting: w2 before w10."""
    import re  # of the standard library, but not free

    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part]
