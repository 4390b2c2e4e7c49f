"""Protection against mass deletion. When many files vanish from a master at once, it is more likely a mishap (a disk
that is not mounted, `rm -rf` in the wrong place) than a deletion that every worker should repeat.

Their rows stay in the manifest, as `settling` until nothing more vanishes, then as `withheld` if they are too many.
Workers keep these files; nobody is sent any of them.
"""

import msgspec

from hashing.live_manifest import Changes, LiveManifest

LEAST_FILES = 50
"""A manifest with at least this many files is protected."""
FEW = 3
"""Up to this many lost files are accepted without being judged: people delete that many by hand. The first event of
a mass deletion may name as few."""


class Guard(msgspec.Struct, frozen=True):
    """`share`: more than this part of the files lost at once is withheld; 1 or more: never. `judge`: decide about
    what is settling. `allow`: a person has said that the files are meant to be gone. `lost_before`: files that the
    updates just before this one have already lost. A slow deletion comes in several updates, and its first files are
    too few to be judged. `doubted`: paths whose state on the disk is not to be believed; their rows stay, as if the
    files had vanished."""

    share: float = 1.0
    judge: bool = False
    allow: bool = False
    lost_before: int = 0
    doubted: frozenset[str] = frozenset()


def apply_changes(live: LiveManifest, changes: Changes, unread: frozenset[str], guard: Guard) -> int:
    """Patch `live` with what was found on the disk, as far as the guard allows. Returns how many files that loses."""
    held = live.held
    doubted = {path for path in guard.doubted if path in live}
    applied = {
        path: row for path, row in changes.items() if path not in doubted and (row is not None or path not in held)
    }
    back = {path for path in applied if path in held}
    lost = [path for path, row in applied.items() if row is None and path in live]
    withheld, settling = set(live.withheld) - back - doubted, set(live.settling) - back - doubted
    if guard.allow or guard.share >= 1:
        applied |= dict.fromkeys(withheld | settling)
        withheld, settling = set(), set()
    else:
        present = len(live) - len(withheld) + guard.lost_before
        is_protected = len(live) + guard.lost_before >= LEAST_FILES
        if settling or (is_protected and len(lost) + guard.lost_before > FEW):
            settling.update(lost)
            for path in lost:
                del applied[path]
        if settling and guard.judge:
            if is_protected and len(settling) + guard.lost_before > guard.share * present:
                withheld |= settling
            else:
                applied |= dict.fromkeys(settling)
            settling = set()
    for path in doubted:
        (withheld if guard.judge or path in live.withheld else settling).add(path)
    live.patch(applied)
    live.mark(unread, withheld, settling)
    return len(lost) + len(doubted - held)
