"""Reads agent groups from the master's database, into strings of chunks in the spool (wire.md 6.3, 6.4)."""

import contextlib

import msgspec

from clusterd.sync.agents.broadcasts import Broadcast, Broadcasts, content
from clusterd.sync.links.context import Context
from clusterd.sync.ports.tag_log import TagLog
from clusterd.wdb.batches import GROUPS_HEAD, GROUPS_TAIL, HANDED_OUT, BadString, parse_chunk, rows_of
from clusterd.wdb.client import DatabaseConversation, DatabaseError

CHUNKS_PER_STRING = 200
"""About 13 MB; the rest is sent in further strings."""
FUTURE_TOO = ', "clusterd_future": true'
"""Asks our own store for agents that were registered before the master's clock was set back, too
(clusterd/store/groups.py)."""
EMPTY_CHUNKS = (b"[]", b'[{"data":[]}]')
NO_GROUPS = b'[{"data":[]'
"""So begins a chunk that has the checksum only."""
NOTHING_MORE = "more groups are announced, and none come"


class GroupsReader:
    """Leaves out what `broadcasts` holds already."""

    def __init__(self, context: Context, broadcasts: Broadcasts) -> None:
        self._context = context
        self._broadcasts = broadcasts

    async def changes(self, made: list[Broadcast]) -> None:
        """Reads the changes into as many broadcasts as necessary. Raises DatabaseError, OSError."""
        database = self._context.database
        ours = await database.is_ours()
        async with database.conversation() as conversation:
            last_id = 0
            while True:
                broadcast = Broadcast(self._context.spool.new_path("groups"))
                made.append(broadcast)
                is_over, last_id = await self._fill(conversation, broadcast, last_id, ours)
                if is_over:
                    return

    async def _fill(
        self, conversation: DatabaseConversation, broadcast: Broadcast, last_id: int, ours: bool
    ) -> tuple[bool, int]:
        """Reads chunks into one broadcast. Returns whether those were all, and the last id read."""
        synced = "false" if ours else "true"
        with open(broadcast.path, "wb") as file:
            file.write(GROUPS_HEAD)
            status = "due"
            while status == "due" and broadcast.chunks < CHUNKS_PER_STRING:
                members = f'{FUTURE_TOO}, "last_id": {last_id}' if ours else ""
                request = (
                    f'global sync-agent-groups-get {{"condition": "sync_status", "set_synced": {synced}, '
                    f'"get_global_hash": true{members}}}'
                )
                status, chunk = await conversation.ask(request)
                before = last_id
                if ours:
                    chunk, last_id = self._note_rows(broadcast, chunk, last_id)
                if chunk not in EMPTY_CHUNKS:
                    file.write((b", " if broadcast.chunks else b"") + msgspec.json.encode(chunk.decode()))
                    broadcast.chunks += 1
                    broadcast.has_groups |= not chunk.startswith(NO_GROUPS)
                elif status == "due" and last_id == before:  # of ours all that came may be on their way already
                    raise DatabaseError(2007, NOTHING_MORE)
            file.write(GROUPS_TAIL)
            broadcast.size = file.tell()
        return status == "ok", last_id

    def _note_rows(self, broadcast: Broadcast, chunk: bytes, last_id: int) -> tuple[bytes, int]:
        """Records the groups of each agent in the chunk, and removes rows that are on their way already. Raises
        DatabaseError."""
        try:
            parsed = parse_chunk(chunk)
            rows = rows_of(parsed)
        except BadString as problem:
            raise DatabaseError(2007, f"groups that cannot be read: {problem}") from None
        if not rows:
            return chunk, last_id
        fresh = [n for n, row in enumerate(rows) if not self._broadcasts.say_the_same(row)]
        if len(fresh) < len(rows):
            data = b",".join(bytes(parsed.data[n]) for n in fresh)
            ending = (
                b"" if isinstance(parsed.hash, msgspec.UnsetType) else b',"hash":' + msgspec.json.encode(parsed.hash)
            )
            chunk = b'[{"data":[' + data + b"]" + ending + b"}]"
        if fresh:
            for n in fresh:
                broadcast.rows[rows[n].id] = content(rows[n])
            items = b",".join(bytes(parsed.data[n]) for n in fresh)
            broadcast.confirmations.append(HANDED_OUT + b'{"data":[' + items + b"]}")
        return chunk, rows[-1].id

    async def everything(self, log: TagLog) -> Broadcast | None:
        """Returns all groups of all agents; None if there are none. Raises DatabaseError, OSError."""
        database = self._context.database
        everything = Broadcast(self._context.spool.new_path("all-groups"))
        try:
            async with database.conversation() as conversation:
                try:
                    await conversation.ask("global recalculate-agent-group-hashes")
                except DatabaseError as failure:
                    if failure.is_away:
                        raise
                    log.warning(f"Error {failure.code} executing recalculate agent-group hash command: {failure.extra}")
                await self._write_all(conversation, everything)
        except BaseException:
            self._context.spool.remove(everything.path)
            raise
        if not everything.chunks:
            self._context.spool.remove(everything.path)
            return None
        return everything

    async def _write_all(self, conversation: DatabaseConversation, everything: Broadcast) -> None:
        members = ""
        with contextlib.suppress(DatabaseError):
            # A wazuh-db whose HTTP socket does not answer can still be asked.
            members = FUTURE_TOO if await self._context.database.is_ours() else ""
        last_id, status = 0, "due"
        with open(everything.path, "wb") as file:
            file.write(GROUPS_HEAD)
            while status == "due":
                status, chunk = await conversation.ask(
                    'global sync-agent-groups-get {"condition": "all", "set_synced": false, "get_global_hash": false, '
                    f'"last_id": {last_id}{members}}}'
                )
                if chunk in EMPTY_CHUNKS:
                    if status == "due":
                        raise DatabaseError(2007, NOTHING_MORE)
                    break
                file.write((b", " if everything.chunks else b"") + msgspec.json.encode(chunk.decode()))
                everything.chunks += 1
                try:
                    last_id = rows_of(parse_chunk(chunk))[-1].id
                except (BadString, IndexError) as problem:
                    raise DatabaseError(2007, f"groups that cannot be read: {problem}") from None
            file.write(GROUPS_TAIL)
            everything.size = file.tell()
