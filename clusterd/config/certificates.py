"""Whether a certificate and its key can be used together."""

from pathlib import Path


def certificate_problem(cert: Path, key: Path) -> str:
    """Why a program cannot use this certificate with this key, "" when it can. Never asks for a passphrase."""

    import ssl  # not for nodes without certificates: check-config loads this, too

    is_locked = False

    def nothing() -> bytes:
        nonlocal is_locked
        is_locked = True
        return b""

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, nothing)
    except ssl.SSLError as failure:
        if is_locked:
            return f"the key {key} has a passphrase; a daemon needs one without"
        if failure.reason == "KEY_VALUES_MISMATCH":
            return f"the key {key} does not belong to the certificate {cert}"
        return f"the certificate {cert} and the key {key} cannot be used: each must be in PEM format ({failure.reason})"
    except OSError as failure:
        return f"the certificate {cert} or the key {key} cannot be read: {failure.strerror}"
    return ""
