"""The objects that every feature of sync uses. Made once by process.py; no feature makes its own."""

import contextlib

import msgspec

from clusterd.clock import Clock
from clusterd.errors import ClusterError
from clusterd.event_sender import EventSender
from clusterd.leadership import NOT_LEADING, Leadership
from clusterd.left_behind import LeftBehind, shown
from clusterd.logs import Log
from clusterd.role import NodeRole, RoleDamaged, read_role
from clusterd.settings import Settings
from clusterd.sync.links.change_gate import ChangeGate
from clusterd.sync.links.outgoing import Progress, Sender
from clusterd.sync.links.roster import Roster
from clusterd.sync.links.tags import role_tag
from clusterd.sync.manifest.keeper import ManifestKeeper
from clusterd.sync.ports.framework_port import Framework
from clusterd.sync.ports.net_port import NetPort
from clusterd.sync.ports.pool_port import PoolPort
from clusterd.sync.ports.slabs import SlabPool
from clusterd.sync.ports.spool import Spool
from clusterd.sync.ports.tag_log import TagLog
from clusterd.sync.ports.troubles import Troubles
from clusterd.wdb.client import Database

NOT_CONNECTED = 3023


class Context(msgspec.Struct):
    """`settings` is replaced as a whole by a reload; `progress` holds the syncs under way, `troubles` what hinders
    them, both for status; `events` takes what happens, for the journal; `framework` is None where none is installed or
    none is wanted, and `no_framework` says which. `needs_restart`: settings that were changed in the files and wait for
    one; `reloaded_at`: when the files were read again, wall-clock seconds. `leadership`, `changes`: of a master in an
    election. `heard_role`, `left_behind`: what the last question for `status` found on disk."""

    settings: Settings
    clock: Clock
    log: Log
    net: NetPort
    jobs: PoolPort
    slabs: SlabPool
    spool: Spool
    manifests: ManifestKeeper
    sender: Sender
    progress: list[Progress]
    database: Database
    troubles: Troubles
    events: EventSender
    roster: Roster
    framework: Framework | None = None
    no_framework: str = ""
    leadership: Leadership | None = None
    changes: ChangeGate | None = None
    needs_restart: tuple[str, ...] = ()
    reloaded_at: float | None = None
    heard_role: NodeRole | None = None
    left_behind: list[LeftBehind] = msgspec.field(default_factory=list)

    def check_lead(self) -> None:
        """Before anything that only a master that leads may do. Raises ClusterError 3023."""
        if self.leadership is not None and not self.leadership.holds():
            raise ClusterError(NOT_CONNECTED, NOT_LEADING)

    def look_at_role(self) -> None:
        """Blocking, a few small files. net keeps the term that it has heard of there."""
        with contextlib.suppress(RoleDamaged):
            self.heard_role = read_role(self.settings.root)
        if self.heard_role is not None:
            self.left_behind = shown(self.settings.root)

    def tag_log(self, tag: str, subtag: str) -> TagLog:
        return TagLog(self.log, tag, subtag)

    @property
    def node_name(self) -> str:
        return self.settings.cluster.node_name

    @property
    def tag(self) -> str:
        """Tag of log lines about the node's own work."""
        return role_tag(self.node_name, is_master=self.settings.is_master)
