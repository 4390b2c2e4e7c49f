"""The text of CDB lists (dapi.md 5.6): lines of `key:value`; a part that holds a colon is in double quotes."""

import re

# A part without quotes may contain quotes further in. An empty value is the usual case.
_QUOTED = r'"[^"\x00-\x08\x0a-\x1f]*"'
_PLAIN = r'[^:"\x00-\x08\x0a-\x1f][^:\x00-\x08\x0a-\x1f]*'
_GOOD = re.compile(rf'(?:"[^"\x00-\x08\x0a-\x1f]+"|{_PLAIN}):(?:{_QUOTED}|{_PLAIN})?')
_READ = re.compile(r'(?:"(?P<quoted>[^"]*)"|(?P<plain>[^:]*)):(?P<value>.*)', re.DOTALL)


def is_list(text: str) -> bool:
    """Tells whether every non-empty line is a key with a value, and there is at least one."""
    lines = [line for line in text.split("\n") if line.strip()]
    return bool(lines) and all(_GOOD.fullmatch(line) for line in lines)


def entries(text: str) -> list[tuple[str, str]]:
    """Returns keys with values in their order, without the quotes. Lines that an upload would not accept are read as
    far as possible: without quotes a key ends at the first colon, and a line without a colon is left out. A byte order
    mark is left out too."""
    found = []
    for line in text.removeprefix("\ufeff").split("\n"):
        match = _READ.fullmatch(line.rstrip("\r"))
        if match is None:
            continue
        key = match["quoted"] if match["quoted"] is not None else match["plain"]
        value = match["value"]
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        if key.strip():
            found.append((key, value))
    return found
