"""The real node of an elector: reads and writes `role.json` and the board, asks the store and sync, and gives them
orders."""

import asyncio
import contextlib
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from clusterd.config.hooks import program_problem
from clusterd.election.facts import Facts, Kept, Lacking
from clusterd.errors import ClusterError, calm
from clusterd.messages.election import LIMIT_S, AskFailsafe, FailsafeAnswers, HeldChanges
from clusterd.messages.journal import ElectionEvent
from clusterd.messages.replica import Drain, Drained, Gone, Show, Undrain
from clusterd.programs import environment, run_program
from clusterd.role import (
    NodeRole,
    RoleChange,
    RoleDamaged,
    heard,
    read_role,
    refuse_two,
    standing,
    update_role,
    with_change,
)
from clusterd.rundir import ELECTION_KEPT, run_dir
from clusterd.settings import Settings
from clusterd.signals import ROLE_WRITTEN
from clusterd.status.control import NotAnswering, ask, ask_json
from clusterd.wdb.replica import ReplicaStore
from clusterd.wire import commands
from clusterd.wire.commands import STATUS
from ipc.board import Board

FAILED = "role.failed"
"""Where clusterd/supervisor/role_change.py writes why the last change of role was given up."""
SHOW_S = 1.0
STATUS_S = 1.5
FILES_EVERY_S = 2.0
DRAIN_WAIT_S = 5.0
SETTLE_S = 2.0
FORGET_S = 10.0
"""How long the store's last answer counts while it does not answer."""
PROGRAM_S = 30.0
BY = "clusterd election"
UNCHECKED = "it is not known whether its files are complete: no check has ended yet"


class Node:
    """Owner of the last answers of store and sync. `say`, `tell`: the log and the journal."""

    def __init__(
        self,
        settings: Settings,
        board: Board,
        say: Callable[[str, str], None],
        tell: Callable[[ElectionEvent], None],
    ) -> None:
        self._settings, self._board = settings, board
        self.say, self.tell = say, tell
        self._root = settings.root
        self._store = ReplicaStore(settings.root)
        self._shown: dict[str, Any] = {}
        self._shown_at = float("-inf")
        self._files_at = float("-inf")
        self._files_why = UNCHECKED
        self._given: NodeRole | None = None
        self._damage = ""
        self._programs: set[asyncio.Task[None]] = set()
        self._program_turn = asyncio.Lock()
        self.last_program: dict[str, Any] | None = None
        """The result of `on_promote` or `on_demote`, for status."""

    # ---- what is known -----------------------------------------------------------------------------------------------

    def _role(self) -> NodeRole | None:
        try:
            self._given, self._damage = read_role(self._root), ""
        except RoleDamaged as failure:
            self._damage = str(failure)
        return self._given

    def facts(self) -> Facts:
        given = self._role()
        configured = self._settings.configured.node_type
        now = standing(given, configured)
        is_known = time.monotonic() < self._shown_at + FORGET_S
        shown = self._shown if is_known else {}
        is_master = now.role == "master"
        state = "master" if shown.get("role") == "master" else str(shown.get("state") or "")
        rows = shown.get("candidates") or []
        return Facts(
            is_configured_master=configured == "master",
            is_master=is_master,
            is_deposed=now.is_deposed,
            term=0 if given is None else given.term,
            led=0 if given is None else given.led,
            master="" if given is None else given.master,
            master_name="" if given is None else given.master_name,
            is_changing=given is not None and given.change is not None,
            failed=self._failure(),
            is_known=is_known,
            state=state,
            epoch=str(shown.get("epoch") or ""),
            past=tuple((str(epoch), int(ended)) for epoch, ended in shown.get("past") or ()),
            position=int(shown.get("position") or 0),
            lag=shown.get("lag"),
            digest_equal=shown.get("digest_equal"),
            digest_at=shown.get("digest_at"),
            followers={
                row["name"]: int(row["position"]) for row in rows if row["connected"] and row["state"] == "following"
            },
            confirming=str(shown.get("confirming") or ""),
            answered=int(shown.get("answered") or 0),
            known=tuple(row["name"] for row in rows),
            heard_at=shown.get("heard_at"),
            may_not_lead=self._objection(shown, is_known=is_known, is_worker=not is_master and not now.is_deposed),
        )

    def _objection(self, shown: dict[str, Any], *, is_known: bool, is_worker: bool) -> str:
        if self._damage:
            return "its role.json is damaged"
        if not is_worker:
            return ""
        if not is_known:
            return "its store does not answer"
        return str(shown.get("may_not_lead") or "") or self._files_why

    def _failure(self) -> str:
        try:
            return Path(run_dir(self._root), FAILED).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""

    async def refresh(self, *, files: bool = True) -> None:
        with contextlib.suppress(ClusterError, ValueError):
            # The master must not wait for confirmations of a node that may not lead.
            objection = "its role.json is damaged" if self._damage else self._files_why
            found = msgspec.json.decode(await self._store.ask(Show(objection), SHOW_S), type=dict[str, Any])
            self._shown, self._shown_at = found, time.monotonic()
        given = self._role()
        # While the role changes no process would answer, and the leader has the files that count.
        is_changing = given is not None and given.change is not None
        is_master = standing(given, self._settings.configured.node_type).role == "master"
        if not files or is_changing or is_master or time.monotonic() < self._files_at + FILES_EVERY_S:
            return
        with contextlib.suppress(NotAnswering, ClusterError, ValueError):
            found = await asyncio.to_thread(ask_json, self._root, STATUS, timeout_s=STATUS_S)
            self._files_at = time.monotonic()
            self._look_at_files((found.get("results") or {}).get("self") or {})

    def _look_at_files(self, own: dict[str, Any]) -> None:
        """See clusterd/sync/integrity/complete_files.py."""
        problems = own.get("problems") or {}
        if problems:
            path, why = next(iter(problems.items()))
            self._files_why = f"its files are incomplete: {path}: {why}"
        elif own.get("result") == "partly":
            self._files_why = f"its files are incomplete: {own.get('detail') or 'see its status'}"
        else:
            self._files_why = "" if own.get("complete") else UNCHECKED

    def board(self) -> tuple[int, int]:
        return self._board.lead()

    # ---- what is done to it ------------------------------------------------------------------------------------------

    def lead(self, term: int, until_ns: int) -> None:
        self._board.set_lead(term, until_ns)

    def begin_promotion(self, term: int, former: tuple[str, ...], *, keeps_agents: bool, without_agents: bool) -> str:
        own = self._settings

        def begin(before: NodeRole | None) -> NodeRole:
            change = RoleChange("promote", without_agents=without_agents, keeps_agents=keeps_agents)
            return with_change(before, change, term, own.clusterd.ha.advertise, own.cluster.node_name, BY, former)

        return self._change(begin)

    def begin_demotion(self, term: int, master: str, name: str) -> str:
        def begin(before: NodeRole | None) -> NodeRole:
            highest = term if before is None else max(before.term, term)
            return with_change(before, RoleChange("demote"), highest, master, name, BY)

        return self._change(begin)

    def hear_of(self, term: int, master: str, name: str) -> str:
        def hear(before: NodeRole | None) -> NodeRole:
            refuse_two(before)
            if before is not None and before.term == term and before.led != term:
                # In the same term with another address: etcd knows where its leader is.
                return msgspec.structs.replace(before, master=master, master_name=name)
            return heard(before, term, master, name, time.time())

        return self._change(hear)

    def _change(self, change: Callable[[NodeRole | None], NodeRole]) -> str:
        before = self._role()
        try:
            self._given = update_role(self._root, change)
        except (RoleDamaged, OSError) as failure:
            return str(failure)
        if self._given == before:
            return ""
        with contextlib.suppress(OSError):
            Path(run_dir(self._root), FAILED).unlink(missing_ok=True)
        self._shown_at = float("-inf")  # what the store said before it says of another role
        os.kill(os.getppid(), ROLE_WRITTEN)
        return ""

    async def hold(self, for_s: float) -> HeldChanges:
        work = functools.partial(ask, self._root, commands.HOLD, f"{for_s:g}".encode(), timeout_s=STATUS_S)
        try:
            return msgspec.json.decode(await asyncio.to_thread(work), type=HeldChanges)
        except (NotAnswering, msgspec.MsgspecError) as failure:
            return HeldChanges(f"sync, which does not answer ({failure}),")

    async def drain(self, for_s: float) -> int:
        answer = await self._store.ask(Drain(for_s), DRAIN_WAIT_S)
        try:
            return msgspec.msgpack.decode(answer, type=Drained).position
        except msgspec.MsgspecError as failure:
            raise ClusterError(1000, f"its answer cannot be read: {failure}") from None

    async def settle(self) -> None:
        work = functools.partial(ask, self._root, commands.SETTLE, timeout_s=SETTLE_S)
        with contextlib.suppress(NotAnswering, ClusterError):
            await asyncio.to_thread(work)

    async def undrain(self) -> None:
        with contextlib.suppress(ClusterError):
            await self.hold(0)
        with contextlib.suppress(ClusterError):
            await self._store.ask(Undrain(), DRAIN_WAIT_S)

    async def lacking(self, name: str) -> Lacking:
        try:
            work = functools.partial(ask_json, self._root, commands.LACKING, name.encode(), timeout_s=STATUS_S)
            found = await asyncio.to_thread(work)
        except (NotAnswering, ClusterError, ValueError):
            return Lacking()
        own = found.get("result")
        if own is None:
            return Lacking(1, None)  # it has not been checked by this master yet
        if own.get("result") == "unknown" or own.get("lag_s") is None:
            return Lacking()
        whole_of = own.get("whole_of")
        age_s = None if whole_of is None else max(0.0, float(found["answered_at"]) - whole_of)
        return Lacking(int(own.get("lag_files") or 1), age_s)

    async def forget(self, name: str) -> None:
        with contextlib.suppress(ClusterError):  # the next step tries again
            await self._store.ask(Gone(name, for_good=True), SHOW_S)

    async def ask_failsafe(self, term: int, leader: str, nodes: tuple[str, ...], for_s: float) -> dict[str, bool]:
        question = msgspec.msgpack.encode(AskFailsafe(term, leader, nodes, for_s))
        work = functools.partial(ask, self._root, commands.ASK_FAILSAFE, question, timeout_s=LIMIT_S + 0.5)
        try:
            return msgspec.msgpack.decode(await asyncio.to_thread(work), type=FailsafeAnswers).yes
        except (NotAnswering, ClusterError, msgspec.MsgspecError):
            return {}

    # ---- programs ----------------------------------------------------------------------------------------------------

    def run_program(self, kind: str, term: int, leader: str) -> None:
        ha = self._settings.clusterd.ha
        run = ha.on_promote if kind == "promote" else ha.on_demote
        if run:
            task = asyncio.create_task(self._run_program(f"on_{kind}", run, term, leader))
            self._programs.add(task)
            task.add_done_callback(self._programs.discard)

    async def _run_program(self, word: str, run: tuple[str, ...], term: int, leader: str) -> None:
        """One program at a time, in order: a virtual address that was given must not be taken away afterwards."""
        settings, name = self._settings, os.path.basename(run[0])
        variables = environment(settings.root, settings.cluster.node_name)
        variables |= {"CLUSTERD_EVENT": word, "CLUSTERD_TERM": str(term), "CLUSTERD_LEADER": leader}
        async with self._program_turn:
            try:
                why = program_problem(run[0], os.geteuid()) or await run_program(
                    run, variables, b"", PROGRAM_S, self.say, name
                )
            except OSError as failure:
                why = f"{run[0]} cannot be run: {failure.strerror}"
            self.last_program = {"name": word, "at": time.time(), "term": term, "problem": calm(why) or None}
            if why:
                self.say("ERROR", f"{word} ({name}), term {term}: {calm(why)}.")
            else:
                self.say("INFO", f"{word} ({name}), term {term}: done.")

    async def end_programs(self, wait_s: float) -> None:
        """Waits for running programs, then kills them."""
        if self._programs:
            await asyncio.wait(self._programs, timeout=wait_s)
        for task in self._programs:
            task.cancel()
        await asyncio.gather(*self._programs, return_exceptions=True)

    # ---- the run directory -------------------------------------------------------------------------------------------

    def keep(self, state: Kept) -> bool:
        path = Path(run_dir(self._root), ELECTION_KEPT)
        new = path.with_suffix(".new")
        with contextlib.suppress(OSError):  # a full disk: another life of this process waits for the end of its lease
            new.write_bytes(msgspec.json.encode(state))
            new.chmod(0o600)
            new.replace(path)
            return True
        return False

    def kept(self) -> Kept | None:
        try:
            return msgspec.json.decode(Path(run_dir(self._root), ELECTION_KEPT).read_bytes(), type=Kept)
        except (OSError, msgspec.MsgspecError, RecursionError):
            return None
