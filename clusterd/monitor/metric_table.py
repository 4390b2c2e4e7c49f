"""Every metric of a node: name, kind, labels, meaning. docs/monitoring.md has the same table; a test compares them.

Labels take few values: processes, nodes of the cluster, words of our own; never a path, an address or another program's
text.
"""

from typing import Literal

import msgspec


class Metric(msgspec.Struct, frozen=True):
    """One metric. `text`: its meaning, one sentence."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    text: str
    labels: tuple[str, ...] = ()


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(f"clusterd_{name}", "gauge", text, labels)


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(f"clusterd_{name}_total", "counter", text, labels)


def _histogram(name: str, text: str, *labels: str) -> Metric:
    return Metric(f"clusterd_{name}", "histogram", text, labels)


TABLE: tuple[Metric, ...] = (
    # the node
    _gauge("build_info", "1; what runs here", "node", "type", "cluster", "version", "program", "python"),
    _gauge("verdict", "0 OK, 1 DEGRADED, 2 DOWN: the first line of clusterd status"),
    _gauge("answers", "1 while sync has answered within the last five seconds; without it what it knows is left out"),
    _gauge("answer_age_seconds", "Age of sync's last answer"),
    _gauge("start_time_seconds", "When the node was started, seconds since 1970"),
    _gauge("problems", "How many things hinder the node's work at this moment"),
    _gauge("settings_waiting", "How many changed settings wait for a restart"),
    # processes
    _gauge("process_up", "1 while the process is alive, by the board: /livez says what is wrong", "process"),
    _gauge("process_heartbeat_age_seconds", "How long ago the process gave a sign of life", "process"),
    _gauge("process_uss_bytes", "Memory that the process shares with no other", "process"),
    _counter("process_cpu_seconds", "CPU time of this life of the process", "process"),
    _counter("process_restarts", "How often the process was replaced since the node's start", "process"),
    _counter("process_log_lines_lost", "Lines that this life of the process could not write to the log", "process"),
    _histogram("loop_lateness_seconds", "How late heartbeats were: how long the loop did something else", "process"),
    # net
    _gauge("net_connections", "Links to other nodes"),
    _gauge("net_handshakes", "Connections that have not said hello"),
    _gauge("net_local_clients", "Programs on the local socket"),
    _counter("net_frames", "Frames on all links", "direction"),
    _counter("net_bytes", "Bytes on all links", "direction"),
    _counter("net_requests", "Requests of peers and programs"),
    _gauge("net_work_longest_seconds", "The longest piece of work on net's loop: for that time every link waits"),
    _counter("net_work_slow", "Pieces of work of more than 5 ms on net's loop"),
    _counter("refusals", "Connections and hellos refused on the cluster's port and the local socket", "reason"),
    _gauge("refused_nodes", "Nodes that tried to join within the last ten minutes and may not"),
    # memory, jobs
    _gauge("slabs", "Pieces of shared memory", "owner"),
    _gauge("slabs_free", "Those of them that are free", "owner"),
    _gauge("jobs_queued", "Jobs that wait for a pool process"),
    _gauge("jobs_running", "Jobs that run"),
    _histogram("job_seconds", "From when a job is given to a process until its result is there", "task"),
    _counter("job_failures", "Jobs that failed", "task"),
    _gauge("framework_processes", "Processes of the installed framework"),
    _gauge("framework_rss_bytes", "Their memory"),
    _counter("pool_busy_seconds", "Time that a pool process has worked", "process"),
    # files
    _gauge("files", "Files of this node's manifest"),
    _gauge("files_bytes", "Their size"),
    _gauge("files_withheld", "Files that vanished in great numbers and stay on the workers"),
    _gauge("files_unreadable", "Files that the last scan could not look at"),
    _gauge("files_watched", "1 while file events are followed"),
    _gauge("scan_failing", "1 while this node cannot look at its files"),
    _gauge("scan_end_timestamp_seconds", "When the last scan ended, seconds since 1970"),
    _gauge("scan_seconds", "How long it took"),
    _counter("changed_files", "Files of this node that changed, since the monitor began", "what"),
    # workers, by the master; a worker shows itself
    _gauge("workers", "Workers that this master knows", "state"),
    _gauge("worker_connected", "1 while the worker has a link", "worker"),
    _gauge("worker_keepalive_age_seconds", "How long ago it was last heard of; of a worker: its master", "worker"),
    _gauge("worker_lag_seconds", "For how long its files have differed from the master's; 0: they are equal", "worker"),
    _gauge("worker_lag_files", "How many files differed when they were last compared", "worker"),
    _gauge("worker_files", "Files of its last sync: missing, shared (changed) and extra ones", "worker", "what"),
    _gauge("worker_files_left_out", "Files that its master cannot send, or that it cannot put in place", "worker"),
    _gauge("worker_result", "1 for the result of its last check", "worker", "result"),
    _gauge("worker_check_timestamp_seconds", "When its last check ended, seconds since 1970", "worker"),
    _gauge("worker_sync_timestamp_seconds", "When its last package was applied, seconds since 1970", "worker"),
    _gauge("worker_spool_bytes", "What waits of it in this node's spool", "worker"),
    _gauge("syncs_running", "Syncs under way"),
    _counter(
        "syncs", "Syncs of a worker's files, groups and agents that ended, since the monitor began", "worker", "result"
    ),
    _counter("sync_bytes", "Bytes sent or received by them", "worker"),
    _histogram("sync_seconds", "How long they took", "what"),
    _counter("worker_events", "Workers that came, went or were refused, since the monitor began", "what"),
    _counter("master_events", "A worker's master that came, was lost or came back, since the monitor began", "what"),
    # agents
    _gauge("agents", "Agents in this node's database", "node", "status"),
    _gauge("agents_database_up", "1 while the agent database answers"),
    _gauge("agents_to_report", "Agents whose state waits to be reported"),
    _gauge("agents_to_hand_out", "Agents whose groups wait to be handed out"),
    _counter("registrations", "Agents' keys, since the monitor began", "what"),
    # spool, disk
    _gauge("spool_bytes", "What waits in the spool"),
    _gauge("spool_limit_bytes", "What may wait there"),
    _gauge("disk_free_bytes", "Free on the disk of the spool"),
    _gauge("disk_reserve_bytes", "What has to stay free; below it files of other nodes are refused"),
    # store, API
    _gauge("store_connections", "Clients of the store"),
    _counter("store_requests", "Requests to the store"),
    _counter("store_commits", "Transactions of the store"),
    _counter("store_writes", "Requests of the store that wrote"),
    _gauge("api_connections", "Connections to the REST API"),
    _counter("api_requests", "Requests to the REST API"),
    _counter("api_refused", "Those answered with 4xx"),
    _counter("api_failed", "Those answered with 5xx"),
    _counter("logins", "Logins through the API, since the monitor began", "result"),
    # secrets
    _gauge("certificate_expiry_timestamp_seconds", "When the certificate expires, seconds since 1970", "file"),
    _gauge("secret_modified_timestamp_seconds", "When a file that holds keys was last changed", "file"),
    # journal and monitor
    _gauge("journal_events", "Events in the journal"),
    _gauge("journal_bytes", "Its size"),
    _counter("journal_heard", "Events heard by the monitor"),
    _counter("journal_lost", "Events that processes could not tell"),
    _counter("journal_unwritten", "Events that the journal could not keep"),
    _counter("process_events", "Processes started, died, killed, stopped, since the monitor began", "what"),
    _counter("monitor_answers", "Answers of the monitoring port", "path", "status"),
    _gauge("monitor_viewers", "Viewers of /events"),
)
