"""The table of all requests that a node answers, one row each: links, role, who may send it, size limit, handler
(wire.md 4.1, appendix A; dapi.md 1).

net refuses a request without a row for its link with `unknown_command_text`. sync binds its handlers to the rows when
it starts, and does not start unless rows and handlers agree. `syn_e_w_m` and `syn_e_w_m_e`, leftovers that no node
sends, are unknown here, as wire.md 4.8 allows.
"""

from typing import Literal, NamedTuple

from clusterd.wire import commands as c

LinkKind = Literal["worker", "master", "local"]
"""The other end of a link: a worker (this node is the master), the master, or a program on the local socket."""
NODES: tuple[LinkKind, ...] = ("worker", "master")
EVERYBODY: tuple[LinkKind, ...] = ("worker", "master", "local")
WORKER: tuple[LinkKind, ...] = ("worker",)
MASTER: tuple[LinkKind, ...] = ("master",)
LOCAL: tuple[LinkKind, ...] = ("local",)

NET = "net"
SMALL = 262144
LARGE = 8 * 1024 * 1024
"""Size limit of an API request in bytes."""


def _privileged(what: str, prefix: str = "") -> str:
    return f"{prefix}only root and the user of this daemon may use {what}"


class Command(NamedTuple):
    """`handler`: the method of sync that answers, or NET. `role`: the node's role, where it matters on one kind of
    link. `most_bytes`: larger requests are refused (None: chunks, whose sealed bodies go to the pool unopened and whose
    limit is that of the file or string they belong to). `privileged`: text of the refusal for a program that belongs
    neither to root nor to the daemon's user; empty: every program may. `capability`: a node that has not agreed to it
    gets the answer to an unknown command. `is_notice`: tells a waiting peer how something ended; it is sent even after
    the sender has given up on the response, since the peer would wait for minutes."""

    word: str
    links: tuple[LinkKind, ...]
    handler: str
    role: Literal["", "master", "worker"] = ""
    most_bytes: int | None = SMALL
    privileged: str = ""
    capability: str = ""
    is_notice: bool = False


TABLE = (
    Command(c.HELLO, WORKER, NET),
    Command(c.ECHO, EVERYBODY, NET),
    Command(c.ECHO_C, ("worker", "local"), NET),
    Command(c.ECHO_M, MASTER, NET),
    Command(c.TERM, WORKER, NET),
    # Files and strings.
    Command(c.NEW_FILE, NODES, "CommonRequests.new_file"),
    Command(c.FILE_UPD, NODES, "CommonRequests.file_chunk", most_bytes=None),
    Command(c.FILE_END, NODES, "CommonRequests.file_end"),
    Command(c.NEW_STR, NODES, "CommonRequests.new_string"),
    Command(c.STR_UPD, NODES, "CommonRequests.string_chunk", most_bytes=None),
    Command(c.ERR_STR, NODES, "CommonRequests.cancel_string", is_notice=True),
    Command(c.CANCEL_TASK, NODES, "CommonRequests.cancel_task", is_notice=True),
    Command(c.RESUME_FILE, MASTER, "WorkerRequests.resume_file"),
    # Agreements between two clusterd nodes.
    Command(c.CAPS, WORKER, "MasterRequests.caps"),
    Command(c.CLOCK, WORKER, "MasterRequests.clock"),
    Command(c.NODE_STATE, NODES, "StatusExchange.told", capability="status"),
    # Integrity.
    Command(c.SYN_DIGEST, WORKER, "MasterRequests.check_digest", capability="digest"),
    Command(c.SYN_BUCKETS, WORKER, "DigestMaster.compare", most_bytes=None, capability="digest"),
    Command(c.SYN_I_W_M_P, WORKER, "MasterRequests.integrity_permission"),
    Command(c.SYN_I_W_M, WORKER, "MasterRequests.begin_check"),
    Command(c.SYN_I_W_M_E, WORKER, "MasterRequests.end_check_file"),
    Command(c.SYN_I_W_M_R, WORKER, "MasterRequests.check_failed", is_notice=True),
    Command(c.SYN_M_C_OK, MASTER, "WorkerRequests.checked_equal", is_notice=True),
    Command(c.SYN_M_C, MASTER, "WorkerRequests.begin_sync"),
    Command(c.SYN_M_C_E, MASTER, "WorkerRequests.end_sync_file"),
    Command(c.SYN_M_C_R, MASTER, "WorkerRequests.sync_failed", is_notice=True),
    Command(c.SYN_CHANGED, MASTER, "WorkerIntegrityRequests.master_changed", capability="push"),
    Command(c.GET_DIFF, MASTER, "WorkerIntegrityRequests.get_diff", capability="digest"),
    Command(c.GET_ROOM, MASTER, "WorkerIntegrityRequests.get_room", capability="room"),
    # A replica of the master's state.
    Command(c.GET_CHANGES, WORKER, "ReplicaMaster.changes", capability="replica"),
    Command(c.GET_API, WORKER, "ReplicaMaster.api_files", capability="replica"),
    # A master of an election that cannot reach etcd.
    Command(c.FAILSAFE, MASTER, "FailsafeWorker.asked", capability="term"),
    Command(c.ASK_FAILSAFE, LOCAL, "FailsafeMaster.ask", "master", privileged=_privileged(c.ASK_FAILSAFE)),
    Command(c.LACKING, LOCAL, "HandingOver.lacking", "master"),
    Command(c.HOLD, LOCAL, "HandingOver.hold", "master", privileged=_privileged(c.HOLD)),
    Command(c.SETTLE, LOCAL, "HandingOver.settle", "master"),
    # Agents and their groups.
    Command(c.SYN_A_W_M_P, WORKER, "MasterRequests.agent_info_permission"),
    Command(c.SYN_A_W_M, WORKER, "MasterRequests.agent_info"),
    Command(c.SYN_M_A_E, MASTER, "WorkerRequests.agents_reported", is_notice=True),
    Command(c.SYN_M_A_ERR, MASTER, "WorkerRequests.agents_refused", is_notice=True),
    Command(c.SYN_G_M_W, MASTER, "WorkerRequests.agent_groups"),
    Command(c.SYN_W_G_E, WORKER, "MasterRequests.groups_written", is_notice=True),
    Command(c.SYN_W_G_ERR, WORKER, "MasterRequests.groups_refused", is_notice=True),
    Command(c.SYN_W_G_C, WORKER, "MasterRequests.all_agent_groups"),
    Command(c.SYN_G_M_W_C, MASTER, "WorkerRequests.all_agent_groups"),
    Command(c.SYN_WGC_E, WORKER, "MasterRequests.all_groups_written", is_notice=True),
    Command(c.SYN_WGC_ERR, WORKER, "MasterRequests.all_groups_refused", is_notice=True),
    # The API.
    Command(c.DAPI, NODES, "ApiRequests.serve", most_bytes=LARGE),
    Command(c.DAPI, LOCAL, "ApiRequests.ask", most_bytes=LARGE),
    Command(c.DAPI_NOW, NODES, "ApiRequests.serve_now"),
    Command(c.DAPI_RES, NODES, "ApiForwarder.answered", is_notice=True),
    Command(c.DAPI_ERR, NODES, "ApiForwarder.failed", most_bytes=LARGE, is_notice=True),
    Command(c.DAPI_FWD, LOCAL, "ApiRequests.forward", "master", LARGE, _privileged(c.DAPI_FWD)),
    # Messages to a daemon of the master.
    Command(c.SENDSYNC, WORKER, "SendsyncMaster.sendsync", most_bytes=LARGE),
    Command(
        c.SENDSYNC, LOCAL, "SendsyncWorker.sendsync", "worker", LARGE, _privileged(c.SENDSYNC, "Permission Denied: ")
    ),
    Command(
        c.SENDASYNC, LOCAL, "SendsyncWorker.sendasync", "worker", LARGE, _privileged(c.SENDSYNC, "Permission Denied: ")
    ),
    Command(c.SENDSYN_RES, MASTER, "SendsyncWorker.answered", is_notice=True),
    Command(c.SENDSYN_ERR, MASTER, "SendsyncWorker.failed", is_notice=True),
    # Questions about the cluster and this node.
    Command(c.GET_NODES, ("worker", "local"), "NodeRequests.get_nodes", "master"),
    Command(c.GET_HEALTH, ("worker", "local"), "NodeRequests.get_health", "master"),
    Command(c.GET_NODES, LOCAL, "ForwardedRequests.get_nodes", "worker"),
    Command(c.GET_HEALTH, LOCAL, "ForwardedRequests.get_health", "worker"),
    Command(c.GET_MEMBERS, WORKER, "NodeRequests.get_members", capability="status"),
    Command(c.GET_MEMBERS, LOCAL, "NodeRequests.get_members", "master"),
    Command(c.GET_MEMBERS, LOCAL, "ForwardedRequests.get_members", "worker"),
    Command(c.GET_CONFIG, LOCAL, "LocalRequests.get_config"),
    Command(c.GET_HASH, LOCAL, "LocalRequests.get_hash"),
    Command(c.STATUS, LOCAL, "Core.tell_status"),
    Command(c.DIFF, LOCAL, "MasterIntegrityRequests.diff", "master"),
    Command(c.DIFF, LOCAL, "WorkerIntegrityRequests.diff", "worker"),
    # Requests of programs that change something.
    Command(c.SYNC_NOW, LOCAL, "MasterIntegrityRequests.sync_now", "master", privileged=_privileged("sync")),
    Command(c.SYNC_NOW, LOCAL, "WorkerIntegrityRequests.sync_now", "worker", privileged=_privileged("sync")),
    Command(c.FORGET, LOCAL, "MasterSide.forget", "master", privileged=_privileged("forget")),
    Command(c.SEND_FILE, LOCAL, "SendFile.send", privileged=_privileged(c.SEND_FILE)),
    Command(c.SENDRRELOAD, LOCAL, "RulesetReload.ask", "worker"),
)

NOTICES = frozenset({row.word for row in TABLE if row.is_notice} | {c.ERR})


NEED_LEADER = frozenset(
    {c.DAPI, c.DAPI_FWD, c.GET_NODES, c.GET_HEALTH, c.GET_MEMBERS, c.DIFF, c.SYNC_NOW, c.FORGET, c.SEND_FILE}
)
"""What programs of a master ask of it that only a master that leads may answer (docs/ha.md)."""


def rows_of(link: LinkKind, *, on_master: bool) -> dict[str, Command]:
    """The rows that a node of this role answers on this kind of link, by word."""
    role = "master" if on_master else "worker"
    return {row.word: row for row in TABLE if link in row.links and row.role in ("", role)}


def known_commands(link: LinkKind, *, on_master: bool) -> frozenset[str]:
    """The words of `rows_of`; anything else is answered with `unknown_command_text`."""
    return frozenset(rows_of(link, on_master=on_master))
