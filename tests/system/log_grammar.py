"""What the log of a node may contain, as operators' test suites read it: each stock tag and subtag has only the texts
of a stock node in their order, everything else has a subtag of clusterd's own, and no line below ERROR alarms."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LINE = re.compile(r"(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) (DEBUG2|DEBUG|INFO|WARNING|ERROR): \[([^\]]*)\] \[([^\]]*)\] (.*)")
SECONDS = r"\d+\.\d{3}s"
ALARMING = re.compile("error|traceback", re.IGNORECASE)
STOCK_ALARMS = re.compile(r"Error \d+ executing recalculate agent-group hash command: ")
"""Stock texts below ERROR."""
DICT = r"\{.*\}"
LIMIT = r"(De|In)creasing sync size limit to \d+\.\d\d MB\."
COUNTS = r"\d+ \| Files to update{0}: \d+ \| Files to delete{0}: \d+"
OTHER = "."


@dataclass(frozen=True)
class Line:
    level: str
    tag: str
    subtag: str
    text: str


class Stage:
    """A stock subtag. `texts`: a letter to the texts for which it stands; `after`: each letter with those that may
    follow it, `^` for the beginning. An ERROR may stand anywhere; after it, or after the end of a link, anything may
    follow."""

    def __init__(self, texts: dict[str, str], after: dict[str, str] | None = None) -> None:
        self.texts = {letter: re.compile(text, re.DOTALL) for letter, text in texts.items()}
        self.after = after

    def letter(self, line: Line) -> str | None:
        if line.level == "ERROR":
            return "E"
        return next((letter for letter, text in self.texts.items() if text.fullmatch(line.text)), None)

    def may_follow(self, before: str, letter: str) -> bool:
        return self.after is None or before in "E?" or letter == "E" or letter in self.after[before]


PERMISSION = {
    "P": r"Permission to synchronize granted\.",
    "N": r"Master didn't grant permission to start a new synchronization: .*",
    "S": r"Starting\.",
}
GROUPS_SENT = {"S": r"Starting\.", "Z": r"Sending chunks\.", "F": rf"Finished in {SECONDS}\. Updated \d+ chunks\."}
MAIN = (
    r"Serving on .*",
    r"Connection from \('[\d.]+', \d+\)",
    r"Command received: b'.*'",
    r"Command received: 'b'.*''",
    r"Disconnected .*\.",
    r"Cancelling pending tasks\.",
    r"(Removing|Nothing to remove in|Removed) '.*'\.",
    r"Successfully connected to master\.",
    r"The master closed the connection",
    r"SIGNAL \[\(15\)-\(SIGTERM\)\] received\. Exit\.\.\.",
    r"Automatically releasing Integrity check permissions flag .*",
    r"Ruleset reload.*",
)
BOTH = {
    "Main": Stage({OTHER: "|".join(f"({text})" for text in MAIN)}),
    "Keep alive": Stage({"C": r"Calculating\.", "D": r"Calculated\."}, {"^": "C", "C": "D", "D": "C"}),
    "Keep Alive": Stage({OTHER: r"Successful response from master: .*"}),
    "D API": Stage(
        {OTHER: r"Receiving (request|parameters).*|Received request.*|(Starting|Finished) .*|Time calculating .*"}
    ),
    "SendSync": Stage({OTHER: r"Receiving SendSync request .*|Received request.*"}),
}
MASTER = BOTH | {
    "Local integrity": Stage(
        {"S": r"Starting\.", "D": DICT, "F": rf"Finished in {SECONDS}\. Calculated metadata of \d+ files\."},
        {"^": "S", "S": "DF", "D": "DF", "F": "S"},
    ),
    "Integrity check": Stage(
        {
            "S": r"Starting\.",
            "R": r"Received file from worker: '.*'",
            "F": rf"Finished in {SECONDS}\. Received metadata of \d+ files\. Sync not required\.",
            "G": rf"Finished in {SECONDS}\. Received metadata of \d+ files\. Sync required\.",
        },
        {"^": "S", "S": "R", "R": "FG", "F": "S", "G": "S"},
    ),
    "Integrity sync": Stage(
        {
            "S": r"Starting\.",
            "M": "Files to create in worker: " + COUNTS.format(" in worker"),
            "C": r"Compressing (files and )?'files_metadata\.json' of \d+ files\.",
            "D": DICT,
            "Z": r"Sending zip file\.",
            "z": r"Zip file sent\.",
            "L": LIMIT,
            "F": rf"Finished in {SECONDS}\.",
        },
        {"^": "S", "S": "M", "M": "C", "C": "DZ", "D": "DZ", "Z": "z", "z": "LF", "L": "F", "F": "S"},
    ),
    "Agent-info sync": Stage(
        {
            "S": r"Starting\.",
            "U": rf"\d+/\d+ chunks updated in wazuh-db in {SECONDS}\.",
            "F": rf"Finished in {SECONDS}\. Updated \d+ chunks\.",
        },
        {"^": "S", "S": "U", "U": "F", "F": "S"},
    ),
    "Local agent-groups": Stage(
        {
            "W": r"Sleeping .*s before starting the agent-groups task, waiting for the workers connection\.",
            "S": r"Starting\.",
            "K": r"No clients connected\. Skipping\.",
            "O": rf"Obtained \d+ chunks of data in {SECONDS}\.",
            "B": r'Added broadcast request to execute "send_agent_groups_information" in .*\.',
            "F": rf"Finished in {SECONDS}\.",
        },
        {"^": "W", "W": "S", "S": "KO", "K": "S", "O": "BF", "B": "BF", "F": "S"},
    ),
    "Agent-groups send": Stage(GROUPS_SENT, {"^": "S", "S": "Z", "Z": "F", "F": "S"}),
    "Agent-groups send full": Stage(
        GROUPS_SENT
        | {"R": r"Recalculating agent-group hash\.", "O": rf"Obtained \d+ chunks of data in {SECONDS}\."}
        | {"W": r"Error \d+ executing recalculate agent-group hash command: .*"},
        {"^": "S", "S": "R", "R": "WO", "W": "O", "O": "ZF", "Z": "F", "F": "S"},
    ),
}
WORKER = BOTH | {
    "Integrity check": Stage(
        PERMISSION
        | {
            "D": DICT,
            "C": r"Compressing 'files_metadata\.json' of \d+ files\.",
            "Z": r"Sending zip file\.",
            "z": r"Zip file sent\.",
            "L": LIMIT,
            "F": rf"Finished in {SECONDS}\. Sync (not )?required\.",
        },
        {
            "^": "NP",
            "N": "NP",
            "P": "S",
            "S": "DC",
            "D": "DC",
            "C": "Z",
            "Z": "z",
            "z": "LF",
            "L": "F",
            "F": "NP",
        },
    ),
    "Integrity sync": Stage(
        {
            "S": r"Starting\.",
            "M": "Files to create: " + COUNTS.format(""),
            "A": r"Worker does not meet integrity checks\. Actions required\.",
            "U": r"Updating local files: Start\.",
            "D": DICT,
            "V": r"Updating local files: End\.",
            "F": rf"Finished in {SECONDS}\.",
        },
        {"^": "S", "S": "M", "M": "A", "A": "U", "U": "DV", "D": "DV", "V": "F", "F": "S"},
    ),
    "Agent-info sync": Stage(
        PERMISSION
        | {
            "O": rf"Obtained agents synchronization information in {SECONDS}\.",
            "K": r"No synchronization required, skipping\.",
            "Z": r"Sending chunks\.",
            "F": rf"Finished in {SECONDS}\. Updated \d+ chunks\.",
        },
        {"^": "NP", "N": "NP", "P": "S", "S": "O", "O": "KZ", "K": "NP", "Z": "F", "F": "NP"},
    ),
    "Agent-groups recv": Stage(
        {
            "S": r"Starting\.",
            "U": rf"\d+/\d+ chunks updated in wazuh-db in {SECONDS}\.",
            "O": rf"Obtained \d+ chunks of data in {SECONDS}\.",
            "M": r"The checksum of both databases match\. (Counter reset\.)?",
            "X": r"The checksum of master \(.*\) and worker \(.*\) are different\.",
            "Y": r"Checksum comparison failed \(\d+/\d+\)\.",
            "A": r"Sent request to obtain all agent-groups information from the master node\.",
            "F": rf"Finished in {SECONDS}\. Updated \d+ chunks\.",
        },
        {"^": "S", "S": "U", "U": "OF", "O": "MX", "M": "F", "X": "Y", "Y": "AF", "A": "F", "F": "S"},
    ),
    "Agent-groups recv full": Stage(
        {
            "S": r"Starting\.",
            "U": rf"\d+/\d+ chunks updated in wazuh-db in {SECONDS}\.",
            "R": r"Recalculating agent-group hash\.",
            "W": r"Error \d+ executing recalculate agent-group hash command: .*",
            "F": rf"Finished in {SECONDS}\. Updated \d+ chunks\.",
        },
        {"^": "S", "S": "U", "U": "R", "R": "WF", "W": "F", "F": "S"},
    ),
}
STOCK = {*MASTER, *WORKER}
ENDS = re.compile(r"Successfully connected to master\.|The master closed|Disconnected |SIGNAL ")
"""In Main: a sync may end at any step there, and another one begins."""


def read(root: Path) -> list[Line]:
    """Yields the entries of a node's log; lines that belong together are one entry."""
    lines: list[Line] = []
    for text in (root / "logs/cluster.log").read_text().splitlines():
        found = LINE.fullmatch(text)
        if found is None:
            assert lines, f"the log begins with {text!r}"
            last = lines[-1]
            lines[-1] = Line(last.level, last.tag, last.subtag, f"{last.text}\n{text}")
        else:
            lines.append(Line(*found.groups()[1:]))
    return lines


def violations(lines: list[Line], *, is_master: bool) -> Iterator[str]:
    """Returns the lines that a stock node would not have written."""
    grammar = MASTER if is_master else WORKER
    before: dict[tuple[str, str], tuple[str, Line | None]] = {}
    for line in lines:
        shown = f"{line.level} [{line.tag}] [{line.subtag}] {line.text}"
        if line.level != "ERROR" and ALARMING.search(line.text) and not STOCK_ALARMS.match(line.text):
            yield f"alarming below ERROR: {shown}"
        if line.subtag == "Main" and ENDS.match(line.text):
            everywhere = not is_master or line.text.startswith("SIGNAL")
            before |= {key: ("?", None) for key in before if everywhere or key[0] == line.tag}
        if line.subtag not in STOCK:
            continue
        stage = grammar.get(line.subtag)
        letter = None if stage is None else stage.letter(line)
        if stage is None or letter is None:
            yield f"not of stock under a subtag of stock: {shown}"
            continue
        key = line.tag, line.subtag
        last, previous = before.get(key, ("^", None))
        before[key] = letter, line
        if not stage.may_follow(last, letter):
            yield f"{shown!r} after {previous.text if previous else 'the beginning'!r}"


def kinds(lines: list[Line], subtag: str) -> set[str]:
    """Returns the letters that a log has under this subtag (of either role): which texts the test has really seen."""
    stages = [grammar[subtag] for grammar in (MASTER, WORKER) if subtag in grammar]
    return {
        letter
        for line in lines
        if line.subtag == subtag
        for stage in stages
        if (letter := stage.letter(line)) is not None
    }
