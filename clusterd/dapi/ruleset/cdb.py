"""The text of CDB lists (dapi.md 5.6): lines of `key:value`; a part that holds a colon is in double quotes."""

import re

# A part without quotes may hold them further in; an empty value is the usual one.
_QUOTED = r'"[^"\x00-\x08\x0a-\x1f]*"'
_PLAIN = r'[^:"\x00-\x08\x0a-\x1f][^:\x00-\x08\x0a-\x1f]*'
_GOOD = re.compile(rf'(?:"[^"\x00-\x08\x0a-\x1f]+"|{_PLAIN}):(?:{_QUOTED}|{_PLAIN})?')
_READ = re.compile(r'(?:"(?P<quoted>[^"]*)"|(?P<plain>[^:]*)):(?P<value>.*)', re.DOTALL)


def is_list(text: str) -> bool:
    """True if every line that is not empty is a key with a value, and there is one at least."""
    lines = [line for line in text.split("\n") if line.strip()]
    return bool(lines) and all(_GOOD.fullmatch(line) for line in lines)


def entries(text: str) -> list[tuple[str, str]]:
    """Keys with values in their order, without the quotes. Of lines that an upload would not accept as much as can be made of
    them: without quotes a key ends at the first colon, and a line without any colon is left out. So is a byte order mark."""
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
