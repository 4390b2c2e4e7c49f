"""`clusterd ha status`, as a table: a pure function of facts."""

from typing import Any

from clusterd.printable import printable_facts
from tools.drawing import Drawn, Parts, Styled, TextTable, ago


def ha_view(ha: dict[str, Any] | None, now: float) -> Drawn:
    """Shows `clusterd ha status`: who leads, and the replicas that this node gives or keeps."""
    if ha is None:
        return Styled("No replica is given or kept by this node (clusterd.ha.replica is off).")
    ha = printable_facts(ha)
    parts: list[Drawn] = _election(ha["election"], now) if ha.get("election") else []
    if ha["problem"]:
        parts.append(Styled(ha["problem"], style="red"))
    parts += [Styled(one["text"], style="yellow") for one in ha.get("left_behind", ())]
    if "candidates" in ha:
        line = Styled(f"position {ha['position']}, highest agent id {ha['greatest_id']}, registrations ", style="dim")
        line.append(ha["registrations"], style="green" if ha["registrations"] == "synchronous" else "yellow")
        if ha["registrations_reason"]:
            line.append(f": {ha['registrations_reason']}", style="yellow")
        parts.append(line)
        table = TextTable("candidates", "NODE", "STATE", "POSITION>", "LAG>", "DIGEST", "MAY LEAD")
        for row in ha["candidates"]:
            state = row["state"] if row["connected"] else f"LOST, heard of {ago(row['seen_at'], now)}"
            table.add_row(row["name"], state, *_replica_cells(row, now))
        parts.append(table)
    elif "state" in ha:
        table = TextTable("replica", "STATE", "CONNECTED", "POSITION>", "LAG>", "DIGEST", "MAY LEAD")
        table.add_row(ha["state"], "yes" if ha["connected"] else "no", *_replica_cells(ha, now))
        parts.append(table)
    return Parts(*parts)


def _replica_cells(row: dict[str, Any], now: float) -> tuple[str | Styled, ...]:
    equal = {True: "equal", False: "differs", None: "not compared yet"}[row["digest_equal"]]
    digest = equal if row["digest_at"] is None else f"{equal}, {ago(row['digest_at'], now)}"
    why = row["may_not_lead"]
    may = Styled(f"no: {why}", style="yellow") if why else Styled("yes", style="green")
    cells = ("-" if row[name] is None else str(row[name]) for name in ("position", "lag"))
    return *cells, digest, may


def _election(facts: dict[str, Any], now: float) -> list[Drawn]:
    """Shows who leads, until when, and what every candidate publishes of itself."""
    line = Styled("the election: ", style="bold")
    if facts["leader"] is None:
        line.append("NOBODY LEADS", style="red")
        line.append(f" ({facts['waits_for'] or 'see the other candidates'})")
    elif not facts["serves"]:
        line.append(f"{facts['leader']} takes the lead in term {facts['term']}", style="yellow")
    else:
        line.append(f"{facts['leader']} leads in term {facts['term']}", style="green")
    if facts["role"] == "leader":
        left = facts["seconds_left"]
        line.append(", without an end" if left is None else f", for {left:.1f} s more if nothing renews it")
    if facts["paused"]:
        line.append(", PAUSED: nobody takes over", style="yellow")
    if facts["is_failsafe"]:
        line.append(", without etcd (failsafe)", style="yellow")
    parts: list[Drawn] = [line]
    for text, style in ((facts["etcd"] and f"etcd cannot be asked: {facts['etcd']}", "red"), (facts["problem"], "red")):
        if text:
            parts.append(Styled(str(text), style=style))
    order, program = facts["order"], facts.get("program")
    if order:
        refused = f": not done, {order['refused']}" if order["refused"] else " is under way"
        parts.append(
            Styled(f"{order['kind']} to {order['to'] or 'anybody'}, ordered on {order['by']}{refused}", "yellow")
        )
    if program:
        done = f"FAILED: {program['problem']}" if program["problem"] else "done"
        style = "red" if program["problem"] else "dim"
        parts.append(Styled(f"{program['name']} {ago(program['at'], now)}: {done}", style))
    table = TextTable(
        "the candidates in etcd", "NODE", "ROLE", "PRIORITY>", "STATE", "POSITION>", "LAG>", "DIGEST", "MAY LEAD"
    )
    for row in facts["candidates"]:
        role = f"{row['role']}{', confirms' if row['is_confirming'] else ''}"
        cells = _replica_cells(row, now)
        if row["role"] == "leader":
            cells = (*cells[:2], "-", Styled("leads", style="green"))
        table.add_row(row["name"], role, str(row["priority"]), row["state"], *cells)
    for name in facts["away"]:
        table.add_row(
            name, Styled("away", style="red"), "-", "-", "-", "-", "-", Styled("no: it is not there", style="yellow")
        )
    return [*parts, table, Styled()]
