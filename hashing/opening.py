"""Opens a received package (wire.md 5.4, 5.9): reads its metadata, checks every path against the rules, finds its
entries and plans the ranges that unpack.py writes.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b

import msgspec

from hashing.directories import Directories
from hashing.errors import FileVanished, MalformedPackage, Note, UnsafePath
from hashing.metadata_json import WireDifference, WireMeta, parse_wire_difference
from hashing.notes import Notes, explain
from hashing.package import FILE_SEP, METADATA_LIMIT_BYTES, METADATA_NAME, PackageReader, read_metadata
from hashing.plan import PlanSection, Target, save_plan
from hashing.rules import PathCheck, Rules

OnStep = Callable[[], object]

SPARE_SEPARATORS = 1000
"""Separators in a package beyond two for each file that its metadata names."""

RANGE_BYTES = 4 * 1024 * 1024
RANGE_FILES = 1000
"""Size of the ranges that are unpacked side by side: packed bytes, files."""

_MERGED_PATH = re.compile(r"queue/cluster/[^/]+/[^/]+\.merged")


class OpenedPackage(msgspec.Struct, frozen=True):
    """Counts of the metadata, and the number of ranges to unpack. `extra_digest` identifies the set of paths to delete.
    `refused`: what may not be touched, with reasons."""

    missing: int
    shared: int
    extra: int
    ranges: int
    extra_digest: str
    refused: list[Note]


def open_package(
    package: str,
    root: str,
    rules: Rules,
    plan: str,
    max_file: int,
    max_total: int,
    on_step: OnStep,
    *,
    range_bytes: int = RANGE_BYTES,
) -> OpenedPackage:
    """Read the metadata of the package file, check all its paths, find its entries, write the plan to `plan`.

    Raises MalformedPackage (no package, no valid metadata), PackageTooLarge (metadata above `max_file` or 256 MiB),
    OSError.
    """
    fd = os.open(package, os.O_RDONLY | os.O_CLOEXEC)
    try:
        reader = PackageReader(fd, os.fstat(fd).st_size)
        metadata = read_metadata(reader, min(max_file, max_total, METADATA_LIMIT_BYTES))
        wire = parse_wire_difference(metadata)
        del metadata
        on_step()
        checked = _Checked(root, rules, wire)
        most = SPARE_SEPARATORS + 2 * (len(wire.missing) + len(wire.shared))
        found, ambiguous = _find_entries(reader, reader.find_metadata(), checked.targets, most, on_step)
        for path in checked.targets.keys() - found.keys():
            checked.refuse(path, checked.targets[path].group, "is not in the package")
        sections = _sections(found, ambiguous, checked.targets, reader.find_metadata(), range_bytes)
    finally:
        os.close(fd)
    save_plan(plan, sections, checked.extra, checked.refused_counts)
    digest = blake2b("\0".join(path for path, _ in checked.extra).encode(), digest_size=16).hexdigest()
    return OpenedPackage(
        len(wire.missing), len(wire.shared), len(wire.extra), len(sections), digest, checked.notes.all()
    )


class _Checked:
    """The metadata divided into what may be done (`targets` by path, `extra` sorted) and what is refused."""

    def __init__(self, root: str, rules: Rules, wire: WireDifference) -> None:
        self._check = PathCheck(rules)
        self._modes = {item.key: item.permissions for item in rules.items}
        self._refused = {"missing": 0, "shared": 0, "extra": 0}
        self.notes = Notes()
        self.targets: dict[str, Target] = {}
        self._add_targets("missing", wire.missing)
        self._add_targets("shared", wire.shared)
        self._refuse_colliding(root, rules, wire.extra)
        self.extra: list[tuple[str, str]] = []
        for path, meta in sorted(wire.extra.items()):
            reason = self._check.allowed(meta.cluster_item_key, path)
            if reason is None and path in self.targets:
                reason = "is to be written too"
            if reason is None:
                self.extra.append((path, meta.cluster_item_key))
            else:
                self.refuse(path, "extra", reason)

    @property
    def refused_counts(self) -> tuple[int, int, int]:
        return self._refused["missing"], self._refused["shared"], self._refused["extra"]

    def refuse(self, path: str, group: str, reason: str) -> None:
        self._refused[group] += 1
        self.notes.add("ERROR", path, failure_text(group, path, reason), reason)

    def _add_targets(self, group: str, metas: Mapping[str, WireMeta]) -> None:
        for path, meta in metas.items():
            item = meta.cluster_item_key
            reason = self._check.allowed(item, path)
            only_parts = False
            if reason is not None and meta.merged and item in self._modes and _MERGED_PATH.fullmatch(path):
                reason, only_parts = None, True
            if reason is None and path in self.targets:
                reason = "is in two groups"
            if reason is not None:
                self.refuse(path, group, reason)
                continue
            digest = bytes.fromhex(meta.hash)
            self.targets[path] = Target(path, digest, self._modes[item], group == "missing", meta.merged, only_parts)

    def _refuse_colliding(self, root: str, rules: Rules, extra: Mapping[str, WireMeta]) -> None:
        """Refuse what lies below another file, or below a link or a file on the disk that is not to be deleted."""
        reasons: dict[str, str | None] = {}
        with Directories(root, rules=rules) as directories:
            for path in list(self.targets):
                directory = path.rpartition("/")[0]
                if directory not in reasons:
                    reasons[directory] = self._directory_problem(directories, directory, extra)
                reason = reasons[directory]
                if reason is not None:
                    self.refuse(path, self.targets.pop(path).group, reason)

    def _directory_problem(self, directories: Directories, directory: str, extra: Mapping[str, WireMeta]) -> str | None:
        above = directory
        while above:
            if above in self.targets:
                return f"is below {above}, which is a file"
            above = above.rpartition("/")[0]
        try:
            directories.get(directory)
        except FileVanished:
            return None
        except UnsafePath as obstacle:
            met = extra.get(obstacle.path)
            is_deleted = met is not None and self._check.allowed(met.cluster_item_key, obstacle.path) is None
            return None if is_deleted else explain(obstacle)
        except OSError as error:
            return explain(error)
        return None


def failure_text(group: str, path: str, reason: str) -> str:
    """The stock text of a file that could not be dealt with (wire.md 5.9)."""
    if group == "extra":
        return f"Error removing file '{path}': {reason}"
    return f"Error processing {group} file '{path}': {reason}"


def _find_entries(
    reader: PackageReader, stop: int, targets: Mapping[str, Target], most: int, on_step: OnStep
) -> tuple[dict[str, int], bool]:
    """Where the entry of each target begins. True if one seems to begin in two places: a separator is inside data then,
    and only reading the entries in order shows which place is real.

    Raises MalformedPackage for more than `most` separators: chance does not put that many into data."""
    found: dict[str, int] = {}
    ambiguous = False
    for number, position in enumerate(candidates(reader, 0, stop)):
        if number % 1024 == 0:
            on_step()
        if number >= most:
            raise MalformedPackage(
                METADATA_NAME, f"names {len(targets)} files, the package has more than {most} entries"
            )
        path = reader.path_at(position)
        if path is not None and path in targets:
            ambiguous |= path in found
            found.setdefault(path, position)
    return found, ambiguous


def candidates(reader: PackageReader, start: int, stop: int) -> Iterator[int]:
    """Positions from `start` on and before `stop` where an entry could begin."""
    if start == 0 and stop > 0:
        yield 0
    for separator in reader.separators(max(0, start - len(FILE_SEP)), stop):
        position = separator + len(FILE_SEP)
        if start <= position < stop:
            yield position


def _sections(
    found: Mapping[str, int], ambiguous: bool, targets: Mapping[str, Target], stop: int, range_bytes: int
) -> list[PlanSection]:
    ordered = sorted(found.items(), key=lambda pair: pair[1])
    starts: list[int] = []
    members: list[list[Target]] = []
    for path, position in ordered:
        is_full = bool(starts) and (position - starts[-1] >= range_bytes or len(members[-1]) >= RANGE_FILES)
        if not starts or (is_full and not ambiguous):
            starts.append(position)
            members.append([])
        members[-1].append(targets[path])
    stops = [*starts[1:], stop]
    return [PlanSection(*section) for section in zip(starts, stops, members, strict=False)]
