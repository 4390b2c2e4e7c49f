"""What an elector knows of its own node, and what it can make it do. node.py is the real one; tests have a double."""

from typing import Protocol

import msgspec

from clusterd.messages.election import HeldChanges
from clusterd.messages.journal import ElectionEvent


class Facts(msgspec.Struct, frozen=True):
    """`is_master`: the effective role; `is_deposed`: a former master that serves no node. `term`: the highest one seen;
    `led`: the one in which this node leads or led; `master`, `master_name`: those of `term`. `is_changing`: a change of
    role is under way; `failed`: why the last one was given up.

    `is_known`: the store has answered, so the following members hold. `state`: `master`, or that of the replica;
    `epoch`, `past`: the present life of the log and the earlier ones; `followers`: on a master, how much of its log
    each candidate with a whole replica has, empty while no candidate is linked; `confirming`, `answered`: on a master,
    the candidate that confirms (empty: none does) and up to where it has everything answered; `known`: every candidate
    that the store has ever sent something; `heard_at`: on a candidate, when its master last sent something.
    `may_not_lead`: the objection to this node."""

    is_configured_master: bool = False
    is_master: bool = False
    is_deposed: bool = False
    term: int = 0
    led: int = 0
    master: str = ""
    master_name: str = ""
    is_changing: bool = False
    failed: str = ""
    is_known: bool = False
    state: str = ""
    epoch: str = ""
    past: tuple[tuple[str, int], ...] = ()
    position: int = 0
    lag: int | None = None
    digest_equal: bool | None = None
    digest_at: float | None = None
    followers: dict[str, int] = {}
    confirming: str = ""
    answered: int = 0
    known: tuple[str, ...] = ()
    heard_at: float | None = None
    may_not_lead: str = ""


class Lacking(msgspec.Struct, frozen=True):
    """What a worker lacks of this master's files. `files`: how many it lacks, or has with other content. `age_s`: how
    many seconds ago the master's files were those that it has; None: not known."""

    files: int = 0
    age_s: float | None = 0.0


class NodePort(Protocol):
    """The node of an elector. A method raises only what its docstring names."""

    def facts(self) -> Facts:
        """Returns what is known now."""

    async def refresh(self, *, files: bool = True) -> None:
        """Asks the store again, for at most a second; with `files` also sync, whether they are complete, if that was
        not asked lately."""

    def board(self) -> tuple[int, int]:
        """Returns term and end of the lease from the board, in nanoseconds of the boot clock."""

    def lead(self, term: int, until_ns: int) -> None:
        """Writes term and end of the lease to the board."""

    def begin_promotion(self, term: int, former: tuple[str, ...], *, keeps_agents: bool, without_agents: bool) -> str:
        """Begins the change of role. Returns the reason if it cannot begin."""

    def begin_demotion(self, term: int, master: str, name: str) -> str:
        """Begins the change of role. Returns the reason if it cannot begin."""

    def hear_of(self, term: int, master: str, name: str) -> str:
        """Notes that another node is master. Returns the reason if that cannot be noted."""

    async def hold(self, for_s: float) -> HeldChanges:
        """Makes sync begin no request of the API that changes something. Raises ClusterError."""

    async def drain(self, for_s: float) -> int:
        """Makes the store refuse further writes; returns the last position. Raises ClusterError."""

    async def undrain(self) -> None:
        """Takes `hold` and `drain` back."""

    async def lacking(self, name: str) -> "Lacking":
        """Returns what that worker lacks of this master's files: nothing, if the master does not know that itself."""

    async def settle(self) -> None:
        """Waits until every write that was carried out has been answered, for at most two seconds."""

    async def forget(self, name: str) -> None:
        """Makes the store forget a candidate that does not come back, unless it is linked."""

    async def ask_failsafe(self, term: int, leader: str, nodes: tuple[str, ...], for_s: float) -> dict[str, bool]:
        """Returns for each of these candidates whether it promises not to lead for `for_s` seconds. A missing one has
        not answered."""

    def run_program(self, kind: str, term: int, leader: str) -> None:
        """Starts `on_promote` or `on_demote`."""

    def keep(self, state: "Kept") -> bool:
        """Writes the state to the run directory. Returns whether it is on the disk."""

    def kept(self) -> "Kept | None":
        """Returns the state that an earlier life of this process wrote."""

    def say(self, level: str, text: str) -> None: ...

    def tell(self, event: ElectionEvent) -> None: ...


class Kept(msgspec.Struct, frozen=True):
    """State that survives a restart of the process `election`, but not of its node: the `id` in its keys, its lease,
    the moment until which it has promised not to take the lead (seconds of the boot clock), the last known list of
    members."""

    id: str
    lease: int = 0
    promised_until_s: float = 0.0
    members: tuple[str, ...] = ()
