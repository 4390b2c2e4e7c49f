"""Command words and the texts of simple replies (wire.md 4.1, 3.1, appendix A; dapi.md 1.3).

All our code uses commands as `str`: the bytes of the wire decoded as Latin-1, so that every command a peer can send has
one spelling and can be sent back. All spellings of the original, misspelt or not, are here and nowhere else.
"""

from typing import Literal

Role = Literal["master", "worker", "local-server", "local-client"]
"""Our end of a link. "master" and "worker": this node's role on a TCP link. "local-server": the daemon on the local
socket. "local-client": a program on it."""

MAX_COMMAND_BYTES = 11

# Responses (wire.md 3.1). The commands with a trailing space are what the original sends in three places (2.2).
OK = "ok"
ERR = "err"
OK_M = "ok-m"
OK_C = "ok-c"
OK_NEW_FILE = "ok "
OK_ECHO_C = "ok-m "
RESPONSES = frozenset({OK, ERR, OK_M, OK_C})
"""A frame with the counter of an open request is a response only with one of these commands (wire.md C2)."""

# Both roles.
ECHO = "echo"
NEW_FILE = "new_file"
FILE_UPD = "file_upd"
FILE_END = "file_end"
NEW_STR = "new_str"
STR_UPD = "str_upd"
ERR_STR = "err_str"
CANCEL_TASK = "cancel_task"
DAPI = "dapi"
DAPI_RES = "dapi_res"
DAPI_ERR = "dapi_err"
DAPI_NOW = "dapi_now"
"""Ours, to a node that listed capability `answer`: like `dapi`, but the response may already be the answer
(clusterd/sync/requests/prompt_answer.py)."""

# Worker to master.
HELLO = "hello"
ECHO_C = "echo-c"
SYN_I_W_M_P = "syn_i_w_m_p"
SYN_I_W_M = "syn_i_w_m"
SYN_I_W_M_E = "syn_i_w_m_e"
SYN_I_W_M_R = "syn_i_w_m_r"
SYN_A_W_M_P = "syn_a_w_m_p"
SYN_A_W_M = "syn_a_w_m"
SYN_W_G_E = "syn_w_g_e"
SYN_W_G_ERR = "syn_w_g_err"
SYN_W_G_C = "syn_w_g_c"
SYN_WGC_E = "syn_wgc_e"
SYN_WGC_ERR = "syn_wgc_err"
SENDSYNC = "sendsync"
GET_NODES = "get_nodes"
GET_HEALTH = "get_health"
CAPS = "caps"
"""Ours, worker to master after hello: a JSON list of capabilities (architecture.md, section 4). Stock does not know
it."""

CLOCK = "clock"
"""Ours, to a master that listed capability `agents`: asks for its boot clock in microseconds, in decimal digits. The
payload names the worker's clock (clusterd/clock.py); a master that reads the same clock answers SAME_CLOCK."""
SAME_CLOCK = b"same"

TERM = "term"
"""Ours, to a clusterd master, also before hello: the highest term that the sender has seen, and who leads in it
(clusterd/wire/terms.py). The response says what the other node knows. Sent by nodes that have heard of a term, or have
agreed on capability `term`."""

# Ours, worker to master, capability `digest` (docs/architecture.md, "What only two clusterd nodes do").
SYN_DIGEST = "syn_digest"
SYN_BUCKETS = "syn_buckets"

GET_CHANGES = "get_changes"
"""Ours, capability `replica`: what has changed in the master's agent database since a position, after a while if
nothing has."""
GET_API = "get_api"
"""Ours, capability `replica`: the files of the master's REST API, piece by piece."""

# Master to worker.
ECHO_M = "echo-m"
SYN_M_C_OK = "syn_m_c_ok"
SYN_M_C = "syn_m_c"
SYN_M_C_E = "syn_m_c_e"
SYN_M_C_R = "syn_m_c_r"
SYN_M_A_E = "syn_m_a_e"
SYN_M_A_ERR = "syn_m_a_err"
SYN_G_M_W = "syn_g_m_w"
SYN_G_M_W_C = "syn_g_m_w_c"
FILE_SENT = {SYN_I_W_M: SYN_I_W_M_E, SYN_M_C: SYN_M_C_E}
FILE_NOT_SENT = {SYN_I_W_M: SYN_I_W_M_R, SYN_M_C: SYN_M_C_R}
"""By the command that asks for a task id: the command that reports the file as sent, or as failed."""
SYN_CHANGED = "syn_changed"
"""Ours, capability `push`: the master's manifest has changed."""
GET_DIFF = "get_diff"
"""Ours, capability `digest`: what the worker would have to change, as JSON."""
RESUME_FILE = "resume_file"
"""Ours, capability `resume`: how much of a package the worker already has."""
GET_ROOM = "get_room"
"""Ours, capability `room`: how many bytes of files the worker can take at once."""
SENDSYN_RES = "sendsyn_res"
SENDSYN_ERR = "sendsyn_err"

# Ours, capability `status` (clusterd/sync/links/exchange.py).
NODE_STATE = "node_state"
"""Both directions: what the asking node leaves out; the answer has the other node's wall clock."""
GET_MEMBERS = "get_members"
"""Worker to master, and local: the known workers without a link, and the nodes that were refused."""

# Ours, of a master of an election (docs/ha.md).
FAILSAFE = "failsafe"
"""Master to worker, capability `term`: whether it may go on although it cannot reach etcd."""
ASK_FAILSAFE = "askfailsafe"
"""Local: asks all candidates that (clusterd/sync/requests/failsafe.py)."""
LACKING = "lacking"
"""Local: what a worker lacks of this master's files (clusterd/sync/requests/handing_over.py)."""
HOLD = "hold"
"""Local: a master that hands over begins no change of its files (clusterd/sync/requests/handing_over.py)."""
SETTLE = "settle"
"""Local: answered when what was carried out for others was answered (clusterd/sync/requests/handing_over.py)."""

# Local socket, client to daemon.
GET_CONFIG = "get_config"
GET_HASH = "get_hash"
SEND_FILE = "send_file"
DAPI_FWD = "dapi_fwd"
SENDASYNC = "sendasync"
SENDRRELOAD = "sendrreload"
DIFF = "diff"
"""Ours: what a worker would have to change to be equal to its master, as JSON."""
SYNC_NOW = "sync_now"
"""Ours: scan now and tell the workers (master); check now (worker)."""
FORGET = "forget"
"""Ours, on a master: removes a worker that does not return from the known workers."""
OF_OPERATORS = frozenset({DIFF, SYNC_NOW, FORGET})
"""Asked by a person, who is told why it is refused."""
STATUS = "status"
"""Ours: the node's status as JSON, for `clusterd status`."""
# Local socket, daemon to client.
CONTROL_RES = "control_res"
SEND_F_RES = "send_f_res"

DIGEST_EQUAL = b"equal"
DIGEST_WAIT = b"wait"
"""Answers to `syn_digest` and `syn_buckets`."""


def python_bytes(command: str) -> str:
    """The command as the original prints it in texts and log lines: `b'hello'`."""
    return repr(command.encode("latin-1"))


def unknown_command_text(command: str) -> bytes:
    """Payload of the `err` that answers an unknown command (wire.md 3.2)."""
    return f"unknown command '{python_bytes(command)}'".encode()


def hello_accepted(name: str) -> bytes:
    """Payload of the `ok` that answers an accepted hello (wire.md 1.4)."""
    return f"Client {name} added".encode()


# Payloads of `ok` (wire.md 4.1).
READY_FOR_FILE = b"Ready to receive new file"
FILE_UPDATED = b"File updated"
FILE_RECEIVED = b"File received correctly"
STRING_UPDATED = b"String updated"
CANCEL_RECEIVED = b"Request received correctly"
PERMISSION_GRANTED = b"True"
PERMISSION_REFUSED = b"False"
PACKAGE_RECEIVED = b"File correctly received"
ERROR_RECEIVED = b"Error received"
THANKS = b"Thanks"
SENDSYNC_QUEUED = b"Added request to SendSync requests queue"
SENDSYNC_FORWARDED = b"Response forwarded to worker"
SENDSYNC_ERROR_FORWARDED = b"SendSync error forwarded to worker"
DAPI_QUEUED = b"Added request to API requests queue"
DAPI_FORWARDED = b"Forwarded response"
DAPI_FORWARDED_TO_WORKER = b"Response forwarded to worker"
DAPI_ERROR_FORWARDED = b"DAPI error forwarded to worker"
AGENT_GROUPS_FULL_ASKED = b"Requested full agent-groups"
"""Answer to `syn_w_g_c`; the original sends an object's repr, which nobody reads."""

# Payloads of `ok` on the local socket (dapi.md 1.3, 1.4). SENT_TO_MASTER is compared by stock clients.
SENT_TO_MASTER = b"Sent request to master node"
DAPI_SENT_TO_WORKER = b"Request forwarded to worker node"
FILE_TO_MASTER = b"Forwarding file to master node"
SENDASYNC_QUEUED = b"Added request to sendsync requests queue"
RELOAD_NOTED = b'{"success": true}'
DAPI_RESPONSE_RECEIVED = b"Distributed api response received"
RESPONSE_RECEIVED = b"Response received"

# Plain-text payloads of `err` (wire.md 3.2).
CHECKSUM_MISMATCH = b"File wasn't correctly received. Checksums aren't equal."

PULSE = b"pulse"
"""Payload of the `echo` that two clusterd nodes with capability `pulse` send each other."""
KEEPALIVE = b"keepalive"
"""Payload of `echo-c`."""
