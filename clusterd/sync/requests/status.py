"""Sync's part of `clusterd status`: plain values under stable keys (docs/operations/reference.md lists them)."""

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from clusterd.clock import Clock
from clusterd.left_behind import told
from clusterd.role import NodeRole
from clusterd.settings import Settings
from clusterd.sync.agents.groups_worker import LastGroups
from clusterd.sync.agents.info import LastReport
from clusterd.sync.integrity.worker import LastSync
from clusterd.sync.links.context import Context
from clusterd.sync.links.peer import Peer
from clusterd.sync.links.records import WorkerRecord
from clusterd.sync.manifest.keeper import ManifestKeeper


class SideStatus(msgspec.Struct, frozen=True):
    """The role's part of `status`. `problem`: what keeps the node from its work, empty if nothing does; `results`: last
    checks and packages; `agents`: last syncs of agents; both by worker on a master, under `self` on a worker.
    `workers`, `refused`: the workers of this master, and nodes that may not join (KnownWorkers). `left_out`, `clocks`:
    by node (StatusExchange)."""

    problem: str
    results: dict[str, Any]
    agents: dict[str, Any]
    workers: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    left_out: dict[str, Any] = {}
    clocks: dict[str, Any] = {}


def node_status(
    context: Context, net_serving: str, part: SideStatus, agents: dict[str, Any], ha: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Returns the whole answer to the local command `status`. Times are wall-clock seconds, sizes bytes. `part`: the
    role's part; `ha`: the state of replicas."""
    cluster = context.settings.cluster
    return {
        "problem": part.problem,
        "problems": context.troubles.shown(),
        "node": {
            "name": cluster.node_name,
            "type": cluster.node_type,
            "role": context.settings.role_text,
            "term": term_of(context.settings, context.heard_role),
            "cluster": cluster.name,
            "version": context.settings.clusterd.version,
            "serving": net_serving,
            "reloaded_at": context.reloaded_at,
            "needs_restart": list(context.needs_restart),
        },
        "peers": [peer_status(peer) for peer in context.roster.all() if peer.info.kind != "local"],
        "manifest": manifest_status(context.manifests),
        "syncs": [msgspec.structs.asdict(progress) for progress in context.progress],
        "results": part.results,
        "workers": part.workers,
        "refused": part.refused,
        "left_out": part.left_out,
        "clocks": part.clocks,
        "slabs_free": context.slabs.free,
        "spool": context.spool.ledger.shown(),
        "framework": framework_status(context),
        "jobs": context.jobs.times.shown(),
        "answered_at": context.clock.wall(),
        "agents": agents,
        "ha": ha,
        "left_behind": [msgspec.to_builtins(one) | {"text": told(one)} for one in context.left_behind],
    }


def term_of(settings: Settings, heard: NodeRole | None) -> dict[str, Any] | None:
    """Returns the terms that this node knows of; net may have heard of one since this process was made. None if it has
    never heard of any."""
    given = heard or settings.role
    if given is None:
        return None
    return {
        "seen": given.term,
        "led": given.led or None,
        "master": given.master or None,
        "master_name": given.master_name or None,
        "since": given.since,
        "by": given.by,
        "configured": settings.configured.node_type,
        "is_deposed": settings.is_deposed,
    }


def framework_status(context: Context) -> dict[str, Any]:
    """`state` `off` or `absent`: there is none, and nothing works differently; `reason` says why."""
    if context.framework is not None:
        return context.framework.shown()
    own = context.settings.clusterd.framework
    # One that was installed while the node runs is found at its next start. Nothing but its interpreter is looked at:
    # what a removed one has left may be thousands of directories.
    is_there = own.mode != "off" and os.path.isfile(os.path.join(context.settings.root, own.python))
    reason = "it was not there when the node started" if is_there else context.no_framework
    return {"state": "off" if own.mode == "off" else "absent", "reason": reason, "mode": own.mode, "helpers": []}


def peer_status(peer: Peer) -> dict[str, Any]:
    return {
        "name": peer.name,
        "kind": peer.info.kind,
        "address": peer.info.address,
        "version": peer.info.version,
        "program": peer.program or "unknown",
        "capabilities": sorted(peer.capabilities),
        "connected_at": peer.info.connected_at,
        "keepalive_at": peer.keepalive_at or None,
    }


def manifest_status(manifests: ManifestKeeper) -> dict[str, Any]:
    """`watching` false: `unwatched` says why. `withheld`: files that have vanished from a master at once and wait for
    `clusterd sync --allow-delete`; `settling`: vanished files that are not judged yet."""
    scan = manifests.current
    watch = {"watching": manifests.watching, "unwatched": manifests.unwatched or None}
    if scan is None:
        return {"state": "scanning" if manifests.scanning else "none", "failure": manifests.failure or None, **watch}
    return {
        "state": "scanning" if manifests.scanning else "ready",
        "failure": manifests.failure or None,
        **watch,
        "withheld": scan.withheld,
        "settling": scan.settling,
        "root_digest": scan.root_digest,
        "content_digest": scan.content_digest,
        "files": scan.files,
        "total_bytes": scan.total_bytes,
        "last_scan": {
            "ended_at": scan.ended_at,
            "duration_s": scan.duration_s,
            "hashed": scan.hashed,
            "reused": scan.reused,
            "hashed_bytes": scan.hashed_bytes,
            "problems": {note.path: note.why for note in scan.notes if note.why},
        },
    }


def agents_of_workers(records: Mapping[str, WorkerRecord]) -> dict[str, Any]:
    """A master: the last syncs of agents by worker."""
    return {
        name: {
            "info_at": record.info_ended_at,
            "info_chunks": record.info_chunks,
            "groups_at": record.groups_ended_at,
            "groups_chunks": record.groups_chunks,
            "groups_problem": record.groups_problem or None,
            "all_groups_at": record.all_groups_ended_at,
        }
        for name, record in records.items()
    }


def agents_of_this_worker(report: LastReport, taken: LastGroups) -> dict[str, Any]:
    """A worker: its last syncs of agents."""
    return {
        "self": {
            "info_at": report.at,
            "info_result": report.result or None,
            "info_detail": report.detail or None,
            "info_reported_at": report.reported_at,
            "groups_at": taken.at,
            "groups_chunks": taken.chunks,
            "groups_problem": taken.errors[0] if taken.errors else None,
            "groups_match": taken.matches,
            "groups_mismatches": taken.mismatches,
            "all_groups_asked_at": taken.asked_for_all_at,
        }
    }


def results_of_this_worker(last: LastSync, *, complete: bool) -> dict[str, Any]:
    """A worker: its last check and package. `complete`: see CompleteFiles."""
    return {
        "self": {
            "result": last.result or None,
            "detail": last.detail or None,
            "checked_at": last.checked_at,
            "synced_at": last.synced_at,
            "created": last.created,
            "updated": last.updated,
            "deleted": last.deleted,
            "problems": last.problems,
            "complete": complete,
        }
    }


def results_of_workers(records: Mapping[str, WorkerRecord], manifests: ManifestKeeper, clock: Clock) -> dict[str, Any]:
    """On a master: last result per worker, and how far it lags behind; `unknown` while the master cannot read its own
    files, because a worker that was equal may not be equal any more."""
    now, here = clock.wall(), clock.monotonic()
    results: dict[str, dict[str, Any]] = {
        name: {
            "result": record.result or None,
            "detail": record.detail or None,
            "checked_at": record.check_ended_at,
            "synced_at": record.sync_ended_at,
            "created": record.missing,
            "updated": record.shared,
            "deleted": record.extra,
            "behind": record.behind,
            "digest": record.digest or None,
            "equal_at": record.equal_at,
            "lag_s": None if record.behind_since is None else here - record.behind_since,
            "lag_files": record.behind_files,
            "whole_of": now if record.behind_since is None else record.whole_of,
            "problems": record.problems,
        }
        for name, record in records.items()
    }
    if manifests.failing_since is not None:
        for result in results.values():
            result["result"], result["lag_files"], result["whole_of"] = "unknown", None, None
            result["detail"] = f"this master cannot look at its files: {manifests.failure}"
            result["lag_s"] = max(result["lag_s"] or 0.0, here - manifests.failing_since)
    return results
