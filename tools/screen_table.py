"""Tables and moments, as every screen shows them."""

from rich.table import Table


def ago(at: float | None, now: float) -> str:
    """Shows a moment as the time since then."""
    if not at:
        return "-"
    seconds = max(0.0, now - at)
    if seconds < 120:
        return f"{seconds:.0f} s ago"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min ago"
    return f"{seconds / 3600:.0f} h ago"


def make_table(title: str, *columns: str) -> Table:
    """Aligns a column to the right if its name ends in `>`."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.removesuffix(">"), justify="right" if column.endswith(">") else "left", overflow="fold")
    return table
