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


NOT_OURS = "it speaks "


def foreign_text(protocol: str, *, is_ours: bool) -> str:
    """Says that the other end speaks another protocol. `is_ours`: it came to our port; else we went to the wrong
    one."""
    return (
        f"{NOT_OURS}{protocol}, this is a cluster port" if is_ours else f"this is no cluster port, it speaks {protocol}"
    )


def protocol_of(first: bytes) -> str | None:
    """`first`: eight bytes. Returns None for bytes that may begin a frame (wire.md 2.1: a counter and a length)."""
    return next((name for beginning, name in _BEGINNINGS if first.startswith(beginning)), None)
