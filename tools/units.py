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
