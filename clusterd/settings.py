"""Frozen settings of a node, read from files by clusterd/config/loading.py; passed in, never global.

Names end in their unit. Defaults are those of wire.md section 7 except where it says "ours". The type of a setting has
its bounds (clusterd/config/json_section.py, `read_struct`).
"""

from hmac import compare_digest
from typing import Annotated, Any, Literal

import msgspec

from clusterd.role import NodeRole, Role, role_text, standing
from hashing.rules import ItemRule, Rules

VersionRule = Literal["exact", "minor", "any"]
StoreChoice = Literal["auto", "on", "off"]
WorkerApi = Literal["full", "read", "off"]
MissingPermissions = Literal["allow", "deny"]
FrameworkMode = Literal["auto", "on", "off"]
MASKED_KEY = "*****"
LONGEST_S = 31_536_000
"""Longest duration of any setting: a year."""
LARGEST_BYTES = 1 << 50
"""Largest size of any setting."""
LARGEST_BODY = 8 * 1024 * 1024
"""Largest REST request: it is passed on inside an API request, which has a bound of its own
(clusterd/dapi/protocol/request.py)."""
Duration = Annotated[float, msgspec.Meta(ge=0.01, le=LONGEST_S)]
DurationOrNone = Annotated[float, msgspec.Meta(ge=0, le=LONGEST_S)]
"""0 is none."""
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_BYTES)]
Size = Annotated[int, msgspec.Meta(ge=1024, le=LARGEST_BYTES)]
Million = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Connections = Annotated[int, msgspec.Meta(ge=1, le=65536)]
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
FilePath = Annotated[str, msgspec.Meta(min_length=1, description="a file's path")]
FilePathOrNone = Annotated[str, msgspec.Meta(description="a file's path")]
HostNameOrNone = Annotated[str, msgspec.Meta(description="a host name")]

DEFAULT_RULES = Rules(
    items=(
        ItemRule("etc/", ("client.keys",), False, 0o640),
        ItemRule("etc/shared/", ("all",), True, 0o660, remove_subdirs_if_empty=True),
        ItemRule("var/multigroups/", ("merged.mg",), True, 0o660, remove_subdirs_if_empty=True),
        ItemRule("etc/rules/", ("all",), True, 0o660),
        ItemRule("etc/decoders/", ("all",), True, 0o660),
        ItemRule("etc/lists/", ("all",), True, 0o660),
    )
)


class Secret:
    """Bytes that never show in a repr, a log or an error."""

    __slots__ = ("value",)

    def __init__(self, value: bytes) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "*****"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and compare_digest(self.value, other.value)

    def __hash__(self) -> int:
        return hash(self.value)


class ClusterBlock(msgspec.Struct, frozen=True):
    """The <cluster> block of ossec.conf (wire.md 7.2). `nodes`: HOST, HOST:PORT or [V6]:PORT, tried in order."""

    name: str = "wazuh"
    node_name: str = "node01"
    node_type: Role = "master"
    key: Secret = Secret(b"")
    port: int = 1516
    bind_addr: str = "0.0.0.0"
    nodes: tuple[str, ...] = ()
    hidden: str = "no"
    disabled: bool = False

    def shown(self) -> dict[str, Any]:
        """The block as programs may see it (dapi.md 1.5): the key is never shown, not even to root."""
        return {
            "name": self.name,
            "node_name": self.node_name,
            "node_type": self.node_type,
            "key": MASKED_KEY,
            "port": self.port,
            "bind_addr": self.bind_addr,
            "nodes": list(self.nodes),
            "hidden": self.hidden,
            "disabled": self.disabled,
        }


class WorkerIntervals(msgspec.Struct, frozen=True):
    sync_integrity_s: Duration = 9
    sync_agent_info_s: Duration = 10
    sync_agent_groups_s: Duration = 30
    timeout_agent_groups_s: Duration = 40
    keep_alive_s: Duration = 60
    connection_retry_s: Duration = 10
    max_failed_keepalive_attempts: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 2
    agent_groups_mismatch_limit: Million = 10


class MasterIntervals(msgspec.Struct, frozen=True):
    sync_agent_groups_s: Duration = 10
    timeout_extra_valid_s: Duration = 40
    recalculate_integrity_s: Duration = 8
    timeout_agent_info_s: Duration = 40
    agent_group_start_delay_s: DurationOrNone = 30
    check_worker_lastkeepalive_s: Duration = 60
    max_allowed_time_without_keepalive_s: Duration = 120
    max_locked_integrity_time_s: Duration = 1000


class Communication(msgspec.Struct, frozen=True):
    timeout_cluster_request_s: Duration = 20
    timeout_dapi_request_s: Duration = 200
    timeout_receiving_file_s: Duration = 120
    max_zip_size_bytes: Size = 1073741824
    min_zip_size_bytes: Size = 31457280
    compress_level: Annotated[int, msgspec.Meta(ge=0, le=9)] = 1
    zip_limit_tolerance: Annotated[float, msgspec.Meta(ge=0, le=0.99)] = 0.2


class Limits(msgspec.Struct, frozen=True):
    """Limits of what a peer can make us hold, all configurable under clusterd.limits of cluster.json. Those of spool
    and disk: clusterd/sync/ports/ledger.py."""

    connections: Count = 4096
    connections_per_address: Count = 1024
    connections_per_network: Count = 2048
    handshakes: Count = 512
    local_clients: Count = 256
    divided_bytes: Size = 41943040
    divided_timeout_s: DurationOrNone = 60
    string_bytes: Size = 268435456
    strings_per_link: Count = 16
    string_idle_s: DurationOrNone = 600
    requests_per_link: Count = 64
    unpacked_file_bytes: Size = 17179869184
    unpacked_total_bytes: Size = 17179869184
    unpacked_ratio: Count = 100
    spool_bytes: Size = 34359738368
    spool_peer_bytes: Size = 2147483648
    disk_reserve_bytes: Size = 1073741824
    disk_reserve_share: Share = 0.05
    log_lines_per_address_s: DurationOrNone = 10
    log_lines: Count = 100
    store_connections: Count = 1024


class Tls(msgspec.Struct, frozen=True):
    """TLS below Fernet. Master: `cert` and `key`; worker: `ca` to verify with (empty: system store), `verify`."""

    enabled: bool = False
    cert: FilePathOrNone = "etc/sslmanager.cert"
    key: FilePathOrNone = "etc/sslmanager.key"
    ca: FilePathOrNone = ""
    verify: bool = True
    server_name: HostNameOrNone = ""


class ApiSettings(msgspec.Struct, frozen=True):
    """The REST API (clusterd/api). `cert`, `key`: PEM files, below the root unless absolute. `token_s`: how long a
    token is good. `request_bytes`: the largest body taken. `request_timeout_s`: how long a head or body may take to
    arrive, and a function to run. `login_attempts`: failed logins of one address, and of one user, within
    `login_window_s`; then neither is heard."""

    enabled: bool = False
    host: str = "0.0.0.0"
    port: Port = 55000
    cert: FilePath = "etc/clusterd-api.crt"
    key: FilePath = "etc/clusterd-api.key"
    token_s: Annotated[int, msgspec.Meta(ge=30, le=LONGEST_S)] = 900
    connections: Connections = 256
    connections_per_address: Connections = 128
    connections_per_network: Connections = 192
    request_bytes: Annotated[int, msgspec.Meta(ge=1024, le=LARGEST_BODY)] = 4 * 1024 * 1024
    request_timeout_s: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] = 10
    login_attempts: Million = 50
    login_window_s: Duration = 300


class JournalSettings(msgspec.Struct, frozen=True):
    """The record of what happens on this node (clusterd/monitor). What is older than `days`, and the oldest of what
    exceeds `size_bytes`, is removed."""

    enabled: bool = True
    days: Annotated[float, msgspec.Meta(ge=0.01, le=36500)] = 30
    size_bytes: Annotated[int, msgspec.Meta(ge=1 << 20, le=LARGEST_BYTES)] = 256 * 1024 * 1024


class MonitorSettings(msgspec.Struct, frozen=True):
    """The monitoring port (clusterd/monitor): HTTP without a login, for this machine by default. `names`: host names,
    other than the node's and the machine's, by which browsers and scrapers may ask for it."""

    enabled: bool = True
    address: str = "127.0.0.1"
    port: Port = 15516
    names: tuple[str, ...] = ()


class HookSettings(msgspec.Struct, frozen=True):
    """A program that runs on events. `on`: kinds, or kinds and outcomes like `worker:lost`
    (clusterd/messages/journal.py). `run`: its absolute path and its arguments. It is killed after `timeout_s`."""

    on: tuple[str, ...]
    run: tuple[str, ...]
    timeout_s: float = 30


class FrameworkSettings(msgspec.Struct, frozen=True):
    """The installed framework (clusterd/framework). `mode`: `auto` starts an installed one with the first request that
    needs it; `on` starts it with the node and reports if there is none. `python`: its interpreter, below the root
    unless absolute. `processes`: most of them under load. A process that uses `memory_bytes`, or has served this many
    `requests`, is replaced. `answer_bytes`: size limit of an answer."""

    mode: FrameworkMode = "auto"
    python: FilePath = "framework/python/bin/python3"
    processes: Annotated[int, msgspec.Meta(ge=1, le=16)] = 2
    memory_bytes: Annotated[int, msgspec.Meta(ge=128 << 20, le=LARGEST_BYTES)] = 512 * 1024 * 1024
    requests: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)] = 10_000
    answer_bytes: Annotated[int, msgspec.Meta(ge=1 << 20, le=1 << 32)] = 128 * 1024 * 1024


class ForceRules(msgspec.Struct, frozen=True):
    """When a registration may replace an old agent (wdb.md 8.4). Times in seconds; `disconnected_s` None: not
    considered."""

    enabled: bool = True
    disconnected_s: int | None = 3600
    after_registration_s: int = 3600
    key_mismatch: bool = True


class EtcdSettings(msgspec.Struct, frozen=True):
    """Where etcd is and who asks it. `endpoints`: URLs with scheme, host and port, in the order in which they are
    tried. `ca`, `cert`, `key`, `password_file`: absolute paths, empty for none; without `ca` the system's store counts.
    The password is read from its file when it is needed, and is nowhere else."""

    endpoints: tuple[str, ...] = ()
    ca: str = ""
    cert: str = ""
    key: str = ""
    user: str = ""
    password_file: str = ""


class HaSettings(msgspec.Struct, frozen=True):
    """`replica`: this node gives a replica of its agent database while it is the master, and keeps one while it is a
    worker (docs/ha.md). `synchronous`: a registration or deletion is answered when a candidate has it, or after
    `synchronous_timeout_s`. `enabled`: the node takes part in the election of the master, in `etcd`, below `prefix`
    (empty: see Settings.ha_prefix). `advertise`: HOST:PORT of its cluster port as the other nodes reach it. `priority`:
    of two candidates that know the same the greater one leads; 0: never. `max_lag`: a candidate that lacks more changes
    does not lead. `on_promote`, `on_demote`: a program's absolute path and its arguments."""

    replica: bool = False
    synchronous: bool = True
    synchronous_timeout_s: Annotated[float, msgspec.Meta(ge=0.1, le=60)] = 5
    enabled: bool = False
    etcd: EtcdSettings = EtcdSettings()
    prefix: str = ""
    lease_s: Annotated[int, msgspec.Meta(ge=5, le=300)] = 15
    advertise: str = ""
    priority: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 100
    failsafe: bool = False
    max_lag: Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)] = 1000
    on_promote: tuple[str, ...] = ()
    on_demote: tuple[str, ...] = ()


CAPABILITIES = (
    "agents",
    "digest",
    "push",
    "lz4",
    "resume",
    "ahead",
    "answer",
    "pulse",
    "room",
    "replica",
    "status",
    "term",
)
"""Capabilities: what this node can do with another clusterd node beyond the stock protocol (architecture.md, section
4). Each can be switched off."""


class Clusterd(msgspec.Struct, frozen=True):
    """Our own section `clusterd` of cluster.json. `store`: whether this node serves the agent database and authd
    itself. `request_timeout_s`: how long a function of the distributed API may run (dapi.md 3.9). `caps`: the
    capabilities that are on; with none of them a worker does not say that it is clusterd. `watch`: follow file events
    between two walks. `worker_api`: what programs on workers may ask of the master through the API: `read` neither
    changes nor gives agent keys. `missing_permissions`: what becomes of an API request that states none (dapi.md 8,
    number 4). `max_delete_share`: a master that loses more than this share of its files at once
    withholds the deletions; 1: never. `max_key_loss_share`: the same for the keys in client.keys, where there are at
    least `key_loss_from`. `stuck_after_s`, `stuck_busy_after_s`: see Timing in clusterd/supervisor/family.py."""

    owner: str = ""
    version: str = "4.14.1"
    version_rule: VersionRule = "exact"
    caps: tuple[str, ...] = CAPABILITIES
    handshake_timeout_s: Duration = 10
    full_walk_s: DurationOrNone = 300
    request_timeout_s: Duration = 10
    stuck_after_s: Annotated[float, msgspec.Meta(ge=2, le=3600)] = 30
    stuck_busy_after_s: Annotated[float, msgspec.Meta(ge=10, le=86400)] = 600
    delete_confirm_share: Share = 0.5
    watch: bool = True
    max_delete_share: Share = 0.5
    max_key_loss_share: Share = 0.5
    key_loss_from: Million = 3
    store: StoreChoice = "auto"
    worker_api: WorkerApi = "full"
    missing_permissions: MissingPermissions = "allow"
    framework: FrameworkSettings = FrameworkSettings()
    force: ForceRules = ForceRules()
    limits: Limits = Limits()
    tls: Tls = Tls()
    api: ApiSettings = ApiSettings()
    journal: JournalSettings = JournalSettings()
    monitor: MonitorSettings = MonitorSettings()
    hooks: tuple[HookSettings, ...] = ()
    ha: HaSettings = HaSettings()

    @property
    def has_monitor(self) -> bool:
        """Whether anything is for the process `monitor` to do."""
        return self.journal.enabled or self.monitor.enabled or bool(self.hooks)


class Settings(msgspec.Struct, frozen=True):
    """Everything a process of the node needs to know. `pool_size` 0: the number of cores, at least 2 on a master and 1
    on a worker. `log_level`: 0 INFO, 1 DEBUG, 2 DEBUG2; `log_level_asked`: that of the command line (-d), for when the
    configured one is 0 (wire.md 7.4); `conf`: the ossec.conf of the command line (-c), else empty. `serves_store`: what
    became of `clusterd.store` when the node started; `framework_python`: the interpreter of the framework that was
    found then, empty where there is none or none is wanted. `cluster`: with the effective role; `written`: the block as
    etc/ossec.conf has it, None where they are the same; `role`: what the node was given beside it
    (clusterd/role.py)."""

    root: str
    conf: str = ""
    cluster: ClusterBlock = ClusterBlock()
    rules: Rules = DEFAULT_RULES
    worker: WorkerIntervals = WorkerIntervals()
    master: MasterIntervals = MasterIntervals()
    communication: Communication = Communication()
    clusterd: Clusterd = Clusterd()
    pool_size: int = 0
    dapi_enabled: bool = True
    log_level: int = 0
    log_level_asked: int = 0
    log_format: Literal["text", "json"] = "text"
    serves_store: bool = False
    framework_python: str = ""
    role: NodeRole | None = None
    written: ClusterBlock | None = None

    @property
    def has_replica(self) -> bool:
        """Whether this node's store gives a replica, or keeps one."""
        return self.clusterd.ha.replica and self.serves_store

    @property
    def has_election(self) -> bool:
        """Whether this node takes part in the election of the master."""
        return self.clusterd.ha.enabled and self.serves_store

    @property
    def ha_prefix(self) -> str:
        """What the keys of this cluster in etcd begin with, without a slash at the end. Read them with one: the name of
        one cluster may begin with that of another."""
        return self.clusterd.ha.prefix or f"/clusterd/{self.configured.name}"

    @property
    def is_master(self) -> bool:
        return self.cluster.node_type == "master"

    @property
    def is_deposed(self) -> bool:
        """It led, and a higher term exists: it is a worker without a master until it is demoted."""
        return standing(self.role, self.configured.node_type).is_deposed

    @property
    def configured(self) -> ClusterBlock:
        """The <cluster> block as etc/ossec.conf has it."""
        return self.written or self.cluster

    @property
    def role_text(self) -> str:
        """The role, for people: with what etc/ossec.conf says where that differs."""
        return role_text(self.role, self.configured.node_type)

    def with_role(self, given: NodeRole | None) -> "Settings":
        """These settings for a node that was given this role: `cluster` has the effective role, and the addresses that
        it has to do with."""
        block = self.configured
        found = standing(given, block.node_type)
        nodes = block.nodes
        if given is not None and (given.role or found.is_deposed or found.role == "master"):
            # A node that leads has its own address here; one that did has no other master than the one it was given.
            nodes = () if found.is_deposed or not given.master else (given.master,)
        elif given is not None and given.master:
            nodes = (given.master, *(node for node in block.nodes if node != given.master))
        cluster = msgspec.structs.replace(block, node_type=found.role, nodes=nodes)
        return msgspec.structs.replace(self, cluster=cluster, written=block, role=given)
