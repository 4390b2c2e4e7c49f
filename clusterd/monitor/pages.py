"""The dashboard's files: read once, with the code, and served from memory.

The supervisor imports this module before it changes its user and forks: later the serving process may not be allowed to
read the files, or they may belong to another version.
"""

import hashlib
from pathlib import Path

import msgspec

DIRECTORY = Path(__file__).parent / "page"
INDEX = "index.html"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".woff2": "font/woff2",
}
"""Files with another suffix are not served."""


class PageFile(msgspec.Struct, frozen=True):
    body: bytes
    content_type: str
    etag: str


def read_pages(directory: Path = DIRECTORY) -> dict[str, PageFile]:
    """The files by path of a request: `/` and `/page/NAME`. No other path can reach a file."""
    found = {}
    for file in sorted(directory.rglob("*")) if directory.is_dir() else ():
        if file.suffix in TYPES and file.is_file():
            body = file.read_bytes()
            page = PageFile(body, TYPES[file.suffix], f'"{hashlib.sha256(body).hexdigest()[:24]}"')
            found[f"/page/{file.relative_to(directory).as_posix()}"] = page
    if f"/page/{INDEX}" in found:
        found["/"] = found[f"/page/{INDEX}"]
    return found


PAGES = read_pages()


def is_known(if_none_match: str, etag: str) -> bool:
    """Whether the caller has this version already (If-None-Match)."""
    return any(one.strip().removeprefix("W/") in (etag, "*") for one in if_none_match.split(","))
