"""The output of `clusterd status`: pure functions from a status to something drawable. They ask no node."""

from typing import Any

from clusterd.printable import printable, printable_facts
from clusterd.status.verdict import Verdict, apart, count_files, is_apart, span
from tools.drawing import Drawn, Parts, Styled, TextTable, ago, bar
from tools.screen_ha import ha_view
from tools.units import size

LONG_SILENCE_S = 10.0
STATES = {
    "ready": "green",
    "starting": "yellow",
    "stopping": "yellow",
    "down": "red",
    "failed": "red",
    "unknown": "red",
}
VERDICTS = {"OK": "green", "DEGRADED": "yellow", "DOWN": "red"}
RESULTS = {"equal": "green", "synced": "green", "partly": "yellow", "failed": "red", "unknown": "red", "lost": "red"}


def status_view(status: dict[str, Any], said: Verdict) -> Drawn:
    """Shows the whole of `clusterd status`; the verdict first."""
    status = printable_facts(status)
    now, reason = status["at"], printable(said.reason)
    parts: list[Drawn] = [Styled.assemble((said.level, f"bold {VERDICTS[said.level]}"), f"  {reason}")]
    if not status["running"]:
        return Parts(*parts, *(Styled(text, style="red") for text in status["problems"].values()))
    parts.append(_headline(status))
    if status["problem"] and status["problem"] != reason:
        parts.append(Styled(status["problem"], style="red"))
    parts += [Styled(text, style="red") for text in status["problems"].values() if text != reason]
    parts += [Styled(one["text"], style="yellow") for one in status.get("left_behind", ())]
    if status["spool"] is not None:
        parts.append(_spool(status["spool"]))
    if status["api"] is not None:
        parts.append(_api(status["api"]))
    framework = status["framework"]
    if framework is not None and framework["state"] not in ("off", "absent"):
        parts.append(_framework(framework))
    parts += [Styled(), _processes(status["processes"])]
    if status["peers"] is not None:
        parts += [Styled(), _peers(status, now)]
    if status["ha"] is not None:
        parts += [Styled(), ha_view(status["ha"], now)]
    if status["refused"]:
        parts += [Styled(), _refused(status["refused"], now)]
    if status["manifest"] is not None:
        parts += [Styled(), _manifest(status["manifest"], now)]
    if status["syncs"]:
        parts += [Styled(), _syncs(status["syncs"])]
    if status["results"]:
        parts += [Styled(), _results(status, now)]
    left_out = {name: row for name, row in status["left_out"].items() if name != status["node"]["name"]}
    if left_out:
        parts += [Styled(), _left_out(left_out)]
    if status["agents"] is not None:
        parts += [Styled(), _agents(status["agents"], status["node"]["type"], now)]
    return Parts(*parts)


def _headline(status: dict[str, Any]) -> Styled:
    node = status["node"]
    line = Styled()
    if node["name"]:  # only sync knows it
        line.append(node["name"], style="bold")
        line.append(f"  {node.get('role') or node['type']} of cluster {node['cluster']}  version {node['version']}  ")
    line.append(f"up {ago(status['started_at'], status['at']).removesuffix(' ago')}")
    if node["needs_restart"]:
        line.append(f"\nthese changes wait for a restart: {', '.join(node['needs_restart'])}", style="yellow")
    if status["log_level"] is not None:
        level = status["log_level"]
        line.append(f"\nthe log is at {level['level']} for {span(level['left_s'])} more", style="yellow")
    for name, row in status["clocks"].items():
        if is_apart(row):
            line.append(f"\n{apart(name, row['offset_s'])}", style="yellow")
    if status["monitor_url"]:
        line.append(f"\nmonitoring port {status['monitor_url']}", style="dim")
    if status.get("build"):
        line.append(f"\nbuild {status['build']['build']} of {status['build']['environment']}", style="dim")
    net = status["net"]
    if net is not None:
        slow = net["work_over_5ms"]
        line.append(f"\nlongest work on net's loop {net['work_max_ms']:.1f} ms", style="dim")
        line.append(f", {slow} times over 5 ms", style="yellow" if slow else "dim")
    return line


def _spool(spool: dict[str, Any]) -> Styled:
    line = Styled(f"spool {size(spool['used'])} of {size(spool['limit'])}", style="dim")
    if spool["disk_free"] is not None:
        is_low = spool["disk_free"] < spool["disk_reserve"]
        line.append(f"; disk {size(spool['disk_free'])} free", style="red" if is_low else "dim")
        line.append(f", {size(spool['disk_reserve'])} reserved", style="dim")
    most = sorted(spool["peers"].items(), key=lambda item: -item[1])[:3]
    if most:
        line.append("; of " + ", ".join(f"{name} {size(held)}" for name, held in most), style="dim")
    return line


def _api(api: dict[str, Any]) -> Styled:
    line = Styled(f"REST API: {api['requests']} requests, {api['refused']} refused", style="dim")
    line.append(f", {api['failed']} failed", style="yellow" if api["failed"] else "dim")
    line.append(f"; {api['connections']} connections now", style="dim")
    return line


def _framework(framework: dict[str, Any]) -> Styled:
    line = Styled("framework ", style="dim")
    line.append(framework["state"], style={"ready": "green", "failed": "red"}.get(framework["state"], "dim"))
    if framework["version"] is not None:
        line.append(f", version {framework['version'] or 'unknown'}, {framework['functions']} functions", style="dim")
    if framework["missing"]:
        line.append(f", {len(framework['missing'])} missing", style="yellow")
    for row in framework["helpers"]:
        line.append(
            f"\n  {row['name']}  pid {row['pid']}  {row['state']}  {row['requests']} requests, {row['running']} now  "
            f"{size(row['rss_bytes'])}",
            style="dim",
        )
    return line


def _state(row: dict[str, Any]) -> Styled:
    text = Styled(row["state"], style=STATES.get(row["state"], ""))
    if (row["silent_s"] or 0) >= LONG_SILENCE_S:
        text.append(f", silent for {row['silent_s']:.0f} s", style="yellow")
    return text


def _processes(processes: list[dict[str, Any]]) -> TextTable:
    table = TextTable("Processes", "name", "class", "pid>", "life>", "state", "cpu>", "uss>", "restarts>")
    for row in processes:
        table.add_row(
            row["name"],
            row["class"],
            "-" if row["pid"] is None else str(row["pid"]),
            str(row["incarnation"]),
            _state(row),
            "-" if row["cpu_percent"] is None else f"{row['cpu_percent']:.1f} %",
            size(row["uss_bytes"]),
            str(row["restarts"]),
        )
    return table


def _peers(status: dict[str, Any], now: float) -> Drawn:
    """Shows the links of this node, and on a master the workers that have none."""
    peers, is_master = status["peers"], status["node"]["type"] == "master"
    away = [row for row in status["workers"] if row["state"] != "connected"]
    if not peers and not away:
        return Styled("No worker is connected." if is_master else "", "yellow")
    title = "Workers" if is_master else "Master"
    table = TextTable(title, "name", "address", "version", "program", "connected", "last keepalive")
    for peer in peers:
        table.add_row(
            peer["name"],
            peer["address"],
            peer["version"],
            peer["program"],
            ago(peer["connected_at"], now),
            ago(peer["keepalive_at"], now),
        )
    for row in away:
        lost = row["state"] == "lost"
        how = f"LOST for {span(row['lost_s'])}" if lost else "expected"
        table.add_row(
            Styled(row["name"], style="red" if lost else "yellow"),
            row["address"],
            row["version"],
            row["program"],
            Styled(how, style="red" if lost else "yellow"),
            ago(row["seen_at"], now),
        )
    return table


def _refused(refused: list[dict[str, Any]], now: float) -> TextTable:
    table = TextTable("Refused", "name", "address", "why", "last attempt", "attempts>")
    for row in refused:
        name = row["name"] or "?"
        table.add_row(Styled(name, "red"), row["address"], row["reason"], ago(row["at"], now), str(row["attempts"]))
    return table


def _manifest(manifest: dict[str, Any], now: float) -> Drawn:
    lines = Styled("Manifest\n", style="bold")
    if "files" not in manifest:
        lines.append("the first scan is running" if manifest["state"] == "scanning" else "no scan yet", style="yellow")
    else:
        scan = manifest["last_scan"]
        lines.append(
            f"{count_files(manifest['files'])}, {size(manifest['total_bytes'])}, root digest "
            f"{manifest['root_digest'][:16]}\n"
            f"last scan {ago(scan['ended_at'], now)}: {scan['duration_s']:.3f} s, {scan['hashed']} hashed, "
            f"{scan['reused']} reused"
        )
        for path, why in scan["problems"].items():
            lines.append(f"\n{path}: {why}", style="yellow")
    if manifest.get("unwatched"):
        lines.append(f"\nfiles are not watched: {manifest['unwatched']}", style="yellow")
    if manifest.get("settling"):
        lines.append(f"\n{manifest['settling']} files have just vanished; that is looked into", style="yellow")
    if manifest.get("withheld"):
        lines.append(
            f"\n{manifest['withheld']} files that were lost at once are kept on the workers: "
            "put them back, or run clusterd sync --allow-delete",
            style="red",
        )
    if manifest["failure"]:
        lines.append(f"\nthe last scan failed: {manifest['failure']}", style="red")
    return lines


def _left_out(left_out: dict[str, dict[str, Any]]) -> TextTable:
    """Shows what other nodes leave out; this node's own files are shown with its manifest and its results."""
    table = TextTable("Left out", "node", "file", "why")
    for name, row in left_out.items():
        for path, why in row["files"].items():
            table.add_row(Styled(name, "yellow"), path, why)
        more = row["count"] - len(row["files"])
        if more > 0:
            table.add_row(Styled(name, "yellow"), f"and {more} more", "")
    return table


def _syncs(syncs: list[dict[str, Any]]) -> TextTable:
    table = TextTable("In progress", "peer", "what", "step", "progress", "done>")
    for sync in syncs:
        total = sync["total_bytes"]
        table.add_row(
            sync["peer"],
            sync["kind"],
            sync["step"],
            bar(sync["done_bytes"], total),
            f"{size(sync['done_bytes'])} of {size(total)}" if total else "",
        )
    return table


def _results(status: dict[str, Any], now: float) -> Drawn:
    results, node_type = status["results"], status["node"]["type"]
    columns = ("node", "result", "lag", "checked", "synced", "created>", "updated>", "deleted>", "remark")
    table = TextTable("Last results", *columns, first_is_whole=True)
    problems: list[Drawn] = []
    for name, row in results.items():
        table.add_row(
            "this node" if name == "self" and node_type != "master" else name,
            _result(row),
            Styled(lag(row), style="yellow" if row.get("lag_s") else ""),
            ago(row["checked_at"], now),
            ago(row["synced_at"], now),
            str(row["created"]),
            str(row["updated"]),
            str(row["deleted"]),
            row["detail"] or "",
        )
        problems += [Styled(f"{path}: {why}", style="yellow") for path, why in row["problems"].items()]
    return Parts(table, *problems)


def _result(row: dict[str, Any]) -> Styled:
    """Returns the last result. It is `behind` if the master's files have changed since."""
    word = row["result"] or "not checked yet"
    if row.get("lag_s") and word in ("equal", "synced"):
        return Styled("behind", style="yellow")
    return Styled(word, style=RESULTS.get(word, "dim"))


def lag(row: dict[str, Any]) -> str:
    """Tells how far a worker is behind its master: for how long and by how many files; empty when it is not behind or
    this is unknown."""
    if row.get("lag_s") is None:
        return ""
    files = "" if row["lag_files"] is None else f", {row['lag_files']} files"
    return f"{span(row['lag_s'])}{files}"


def _agents(agents: dict[str, Any], node_type: str, now: float) -> Drawn:
    if agents["problem"]:
        return Styled(f"Agents\nthe agent database does not answer: {agents['problem']}", style="yellow")
    table = TextTable("Agents", "reported by", "all>", "active>", "pending>", "disconnected>", "never connected>")
    for name, counts in sorted(agents["nodes"].items()):
        words = ("active", "pending", "disconnected", "never_connected")
        table.add_row(name, str(sum(counts.values())), *(str(counts.get(word, 0)) for word in words))
    digest = agents["groups_hash"]
    waiting = f"checksum of groups {digest[:16] if digest else 'none'}"
    if node_type == "master":
        waiting += f", groups to hand out: {agents['to_hand_out']}"
    else:
        waiting += f", agents to report: {agents['to_report']}"
    parts: list[Drawn] = [table, Styled(waiting, style="dim")]
    if agents["syncs"]:
        parts.append(
            _master_agent_syncs(agents["syncs"], now) if node_type == "master" else _own_agent_syncs(agents, now)
        )
    return Parts(*parts)


def _master_agent_syncs(syncs: dict[str, dict[str, Any]], now: float) -> TextTable:
    table = TextTable("Agent syncs", "worker", "agent-info", "agent-groups", "all groups", "remark")
    for name, row in syncs.items():
        table.add_row(
            name,
            ago(row["info_at"], now),
            ago(row["groups_at"], now),
            ago(row["all_groups_at"], now),
            Styled(row["groups_problem"] or "", style="yellow"),
        )
    return table


def _own_agent_syncs(agents: dict[str, Any], now: float) -> Styled:
    row = agents["syncs"]["self"]
    line = Styled(f"agent-info {row['info_result'] or 'not yet'} {ago(row['info_at'], now)}")
    if row["info_detail"]:
        line.append(f" ({row['info_detail']})", style="yellow")
    line.append(f"\nagent-groups {ago(row['groups_at'], now)}, ")
    if row["groups_match"] is None:
        line.append("not compared with the master yet")
    elif row["groups_match"]:
        line.append("equal to the master's", style="green")
    else:
        line.append(f"different from the master's ({row['groups_mismatches']} comparisons)", style="yellow")
    if row["groups_problem"]:
        line.append(f"\n{row['groups_problem']}", style="yellow")
    return line
