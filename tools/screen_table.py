"""Tables and moments, as every screen shows them."""

from rich.table import Table

from clusterd.status.verdict import span


def ago(at: float | None, now: float) -> str:
    """Shows a moment as the time since then."""
    if not at:
        return "-"
    return f"{span(max(0.0, now - at))} ago"


def make_table(title: str, *columns: str) -> Table:
    """Aligns a column to the right if its name ends in `>`."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.removesuffix(">"), justify="right" if column.endswith(">") else "left", overflow="fold")
    return table
