"""Paths of a running node's files. All are absolute; these functions return text and create nothing."""

import os

DEFAULT_ROOT = "/var/ossec"
"""The product's directory, where nobody names another one."""
RUN_DIR = "var/run/clusterd"
ELECTION_KEPT = "election.json"
"""In the run directory: what the process `election` needs of its life before (clusterd/election/facts.py, Kept)."""
STATE = "queue/cluster/.clusterd/state"
"""State that outlives the node's processes: digests, manifests, accepted agent keys, known workers."""
JOURNAL = "queue/cluster/.clusterd/journal.db"
"""What has happened on the node (clusterd/monitor/journal_file.py)."""
REMOVED_KEYS = f"{STATE}/removed-keys"
"""Lines of client.keys that another program has taken out of it, for whoever did not mean that (0600)."""
REPLICA_DIR = "queue/cluster/.clusterd/replica"
"""A candidate's replica of its master (docs/ha.md): mode 0700."""
REPLICA_FILE = f"{REPLICA_DIR}/replica.db"
COPY_FILE = f"{REPLICA_DIR}/copy.db"
"""A full copy that is not whole yet."""
API_FILES = f"{REPLICA_DIR}/api"
"""Directory with the files of the master's REST API."""
LOCAL_SOCKET = "queue/cluster/c-internal.sock"
WDB_SOCKET = "queue/db/wdb"
HTTP_SOCKET = "queue/sockets/wdb-http.sock"
AUTH_SOCKET = "queue/sockets/auth"
STORE_SOCKETS = (WDB_SOCKET, HTTP_SOCKET, AUTH_SOCKET)
"""Served by the product's own daemons, or by our store (wdb.md 1)."""
REAL_DAEMON = "bin/wazuh-db"
"""The product's own daemon for them, where it is installed."""
MAX_SOCKET_PATH = 107
"""Bytes of a unix socket's path (sun_path less its NUL)."""


def run_dir(root: str) -> str:
    """The run directory: mode 0700, created anew at each start."""
    return f"{root.rstrip('/')}/{RUN_DIR}"


def sync_socket(root: str) -> str:
    """Bound by sync, for net."""
    return f"{run_dir(root)}/sync.sock"


def jobs_socket(root: str) -> str:
    """Bound by sync, for the pool."""
    return f"{run_dir(root)}/jobs.sock"


def journal_socket(root: str) -> str:
    """Bound by the monitor, for events of every process."""
    return f"{run_dir(root)}/journal.sock"


def replica_socket(root: str) -> str:
    """Bound by a store that keeps or gives a replica, for sync."""
    return f"{run_dir(root)}/store.sock"


def election_socket(root: str) -> str:
    """Bound by election, for store, sync and the commands of operators (clusterd/messages/election.py)."""
    return f"{run_dir(root)}/election.sock"


def board_path(root: str) -> str:
    """The status board: mapped by every process, read by `clusterd status`."""
    return f"{run_dir(root)}/board"


def reason_path(root: str) -> str:
    """One line for the caller of start: why a child could not start."""
    return f"{run_dir(root)}/reason"


def problem_path(root: str, process: str) -> str:
    """One line for `clusterd status`: what keeps a living child from its work; absent while nothing does."""
    return f"{run_dir(root)}/{process}.problem"


def journal_path(root: str) -> str:
    """The journal, a SQLite file. The monitor writes it, commands read it."""
    return f"{root.rstrip('/')}/{JOURNAL}"


def monitor_url_path(root: str) -> str:
    """One line: where the monitoring port is; absent while there is none."""
    return f"{run_dir(root)}/monitor.url"


def local_socket(root: str) -> str:
    """The socket for programs on this machine (dapi.md 1.1)."""
    return f"{root.rstrip('/')}/{LOCAL_SOCKET}"


def root_problem(root: str) -> str | None:
    """Why this root cannot hold the node's sockets, or None."""
    sockets = (
        *(local_socket(root), sync_socket(root), jobs_socket(root), journal_socket(root)),
        f"{root.rstrip('/')}/{HTTP_SOCKET}",
    )
    longest = max(sockets, key=lambda path: len(os.fsencode(path)))
    length = len(os.fsencode(longest))
    if length <= MAX_SOCKET_PATH:
        return None
    return (
        f"the root {root} is too long: {longest} has {length} bytes, a unix socket's path at most {MAX_SOCKET_PATH}; "
        f"use a root at least {length - MAX_SOCKET_PATH} bytes shorter"
    )
