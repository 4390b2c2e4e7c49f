"""When the certificates of a node expire, and since when its secrets are unchanged. Of a secret only the file's time is
read."""

import contextlib
import os

import msgspec
from cryptography import x509

from clusterd.file_version import FileVersion, version_of
from clusterd.settings import Settings
from clusterd.token_secret import SECRET_FILE

LARGEST_CERTIFICATE = 1 << 20


class SecretsAge(msgspec.Struct, frozen=True):
    """Wall-clock seconds by path below the root, as configured. A file that is absent or unreadable is left out."""

    expiry: dict[str, float]
    modified: dict[str, float]


class SecretFiles:
    """Reads times when it is asked; a certificate again only after its file has changed."""

    def __init__(self, settings: Settings) -> None:
        own = settings.clusterd
        self._root = settings.root
        keys, certificates = ["etc/ossec.conf", "etc/client.keys"], []
        if own.tls.enabled:
            certificates.append(own.tls.cert if settings.is_master else own.tls.ca)
            keys += [own.tls.key] if settings.is_master else []
        if own.api.enabled:
            certificates.append(own.api.cert)
            keys += [own.api.key, SECRET_FILE]
        self._keys = [path for path in keys if path]
        self._certificates = [path for path in certificates if path]
        self._read: dict[str, tuple[FileVersion, float | None]] = {}

    def look(self) -> SecretsAge:
        """May wait for the disk."""
        expiry, modified = {}, {}
        for path in self._keys:
            with contextlib.suppress(OSError):
                modified[path] = os.stat(os.path.join(self._root, path)).st_mtime
        for path in self._certificates:
            until = self._expiry(os.path.join(self._root, path))
            if until is not None:
                expiry[path] = until
        return SecretsAge(expiry, modified)

    def _expiry(self, path: str) -> float | None:
        """Returns when the first certificate of the chain expires."""
        try:
            facts = os.stat(path)
            identity = version_of(facts)
            known = self._read.get(path)
            if known is not None and known[0] == identity:
                return known[1]
            with open(path, "rb") as file:
                chain = x509.load_pem_x509_certificates(file.read(LARGEST_CERTIFICATE))
        except (OSError, ValueError):
            return None
        until = min(one.not_valid_after_utc.timestamp() for one in chain)
        self._read[path] = identity, until
        return until
