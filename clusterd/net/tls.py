"""TLS contexts from the settings. TLS is below Fernet and does not replace it (wire.md 1.3)."""

import os
import ssl

from clusterd.settings import Settings


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """The master's, or None when TLS is off. Raises OSError (ssl.SSLError) when the files cannot be used."""
    tls = settings.clusterd.tls
    if not tls.enabled:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(_below(settings.root, tls.cert), _below(settings.root, tls.key))
    return context


def client_context(settings: Settings) -> ssl.SSLContext | None:
    """A worker's, or None when TLS is off. Raises OSError when the CA's file cannot be used."""
    tls = settings.clusterd.tls
    if not tls.enabled:
        return None
    context = ssl.create_default_context(
        ssl.Purpose.SERVER_AUTH, cafile=_below(settings.root, tls.ca) if tls.ca else None
    )
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _below(root: str, path: str) -> str:
    """Paths in the settings are relative to the root unless absolute."""
    return os.path.join(root, path)
