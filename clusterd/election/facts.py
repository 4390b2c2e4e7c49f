"""What an elector knows of its own node, and what it can do to it. The process has the real one (node.py), tests have
one that is told."""

from typing import Protocol

import msgspec

from clusterd.messages.journal import ElectionEvent


class Facts(msgspec.Struct, frozen=True):
    """`is_master`: the effective role; `is_deposed`: it led and serves nobody. `term`: the highest one seen; `led`: the
    one it leads in, or led; `master`, `master_name`: of `term`. `is_changing`: a change of role is under way; `failed`:
    why the last one was given up. `is_known`: the store has answered, and the members after it hold: `state` `master`,
    or that of the replica; `epoch`, `past`: which log, and the lives of it that are over; `followers`: as a master, who
    holds how much of a whole replica of its log, and when no candidate is linked, nobody; `known`: every candidate that
    it has ever given something; `heard_at`: as a candidate, when its master has last told it something. `may_not_lead`:
    what speaks against this node."""

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
    known: tuple[str, ...] = ()
    heard_at: float | None = None
    may_not_lead: str = ""


class NodePort(Protocol):
    """The node of an elector. Nothing here raises but where it is said."""

    def facts(self) -> Facts:
        """As far as they are known."""

    async def refresh(self) -> None:
        """Asks the store and sync again, for a second at most."""

    def board(self) -> tuple[int, int]:
        """Term and end of the lease as they stand on the board, in nanoseconds of the boot clock."""

    def lead(self, term: int, until_ns: int) -> None:
        """Puts them there."""

    def begin_promotion(self, term: int, former: tuple[str, ...], *, keeps_agents: bool, without_agents: bool) -> str:
        """Begins the change of role. Returns why it cannot."""

    def begin_demotion(self, term: int, master: str, name: str) -> str:
        """Begins the change of role. Returns why it cannot."""

    def hear_of(self, term: int, master: str, name: str) -> str:
        """There is another master. Returns why it cannot be noted."""

    async def drain(self, for_s: float) -> int:
        """No more writes are taken: the last position. Raises ClusterError."""

    async def undrain(self) -> None: ...

    async def settle(self) -> None:
        """Returns when what was carried out has been answered, or after two seconds."""

    async def forget(self, name: str) -> None:
        """A candidate does not come back: the store knows it no more, unless it is linked."""

    async def ask_failsafe(self, term: int, leader: str, nodes: tuple[str, ...], for_s: float) -> dict[str, bool]:
        """Whether each of these candidates promises not to lead for so long. One that is missing has not answered."""

    def run_program(self, kind: str, term: int, leader: str) -> None:
        """Begins `on_promote` or `on_demote`."""

    def keep(self, state: "Kept") -> bool:
        """Writes it into the run directory. Returns whether it is there."""

    def kept(self) -> "Kept | None":
        """What an earlier life of this process wrote."""

    def say(self, level: str, text: str) -> None: ...

    def tell(self, event: ElectionEvent) -> None: ...


class Kept(msgspec.Struct, frozen=True):
    """What outlives the process `election`, and not its node: `id` in its keys, its lease, until when it has promised
    not to take the lead (seconds of the boot clock), the last known list of members."""

    id: str
    lease: int = 0
    promised_until_s: float = 0.0
    members: tuple[str, ...] = ()
