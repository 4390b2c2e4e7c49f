"""A node's tree with rules, decoders and lists. Tests call functions on it as a pool process does."""

import os
from pathlib import Path
from typing import Any

from clusterd.dapi.functions import decoders, lists, rules, ruleset_files
from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.registry import Call, arguments_of
from clusterd.dapi.protocol.request import ApiRequest
from clusterd.settings import Settings
from clusterd.wdb.blocking import BlockingDatabase
from clusterd.wire.results import WireCallable

REGISTRY = ruleset_files.registry.join(lists.registry, rules.registry, decoders.registry)

RULE = (
    '<group name="local,">\n  <rule id="100100" level="3">\n    <description>One</description>\n  </rule>\n</group>\n'
)
DECODER = '<decoder name="one">\n  <prematch>^one</prematch>\n</decoder>\n'


class RulesetNode:
    """`write` makes files below the root; `call` runs a function by its stock name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for directory in ("tmp", "etc/rules", "etc/decoders", "etc/lists", "ruleset/rules", "ruleset/decoders"):
            (root / directory).mkdir(parents=True)

    def write(self, path: str, content: str | bytes) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def configure(self, *options: str) -> None:
        """The ruleset section of ossec.conf."""
        text = "\n".join(options)
        self.write("etc/ossec.conf", f"<ossec_config>\n<ruleset>\n{text}\n</ruleset>\n</ossec_config>\n")

    def answer(self, module: str, qualname: str, **given: Any) -> Any:
        name = WireCallable(qualname, module, qualname)
        function = REGISTRY.find(name)
        assert function is not None
        settings = Settings(root=str(self.root))
        with BlockingDatabase(str(self.root)) as database:
            call = Call(settings, ApiRequest(name), database)
            return function.work(call, arguments_of(function, given))

    def items(self, module: str, qualname: str, **given: Any) -> Items:
        answer = self.answer(module, qualname, **given)
        assert isinstance(answer, Items)
        return answer

    def tree(self) -> dict[str, bytes]:
        """Returns all files by path; a test compares them to see that nothing else was touched."""
        found = {}
        for directory, _, names in os.walk(self.root):
            for name in names:
                path = Path(directory, name)
                found[str(path.relative_to(self.root))] = (
                    os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
                )
        return found


def codes(items: Items) -> dict[str, int]:
    """Returns the code with which each item failed."""
    return {item: error.code for error, ids in items.failed for item in ids}
