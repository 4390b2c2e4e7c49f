"""Recognises other protocols by the first bytes of a connection, to name a wrong port."""

_BEGINNINGS = (
    (b"HTTP/", "HTTP"),
    (b"GET /", "HTTP"),
    (b"POST /", "HTTP"),
    (b"HEAD /", "HTTP"),
    (b"SSH-", "SSH"),
    (b"\x16\x03", "TLS"),
    (b"\x15\x03", "TLS"),
    (b"220 ", "SMTP or FTP"),
    (b"220-", "SMTP or FTP"),
)


def protocol_of(first: bytes) -> str | None:
    """`first`: eight bytes. Returns None for bytes that may begin a frame (wire.md 2.1: a counter and a length)."""
    return next((name for beginning, name in _BEGINNINGS if first.startswith(beginning)), None)
