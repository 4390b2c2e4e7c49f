"""Turns on the REST API of a node: a self-signed certificate, and `clusterd.api.enabled` in cluster.json. Never
overwrites a key or certificate."""

import contextlib
import datetime
import ipaddress
import json
import os
import socket
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from clusterd.config.loading import CLUSTER_JSON, load
from clusterd.errors import PlainFailure, in_words
from clusterd.rights import owner_for_daemon
from clusterd.settings import ApiSettings
from clusterd.users import UserProblem, read_users
from hashing.atomic import FileOps
from hashing.write import write_atomic

YEARS = 10
CERT_MODE, KEY_MODE, JSON_MODE = 0o644, 0o600, 0o640
EVERY_ADDRESS = ("0.0.0.0", "::", "")
LONGEST_NAME = 64
"""Most characters of a certificate's common name (X.520)."""


class SetupProblem(PlainFailure):
    """The API cannot be turned on. The text tells why and what to do."""


def read_cluster_json(root: str) -> dict[str, Any]:
    """Returns the file's content, empty without a file. Raises SetupProblem if nothing can be added to it, also if only
    one of certificate and key exists."""
    content = _content(root)
    cert, key = _pair(root, content.get("clusterd", {}).get("api", {}))
    if cert.exists() != key.exists():
        there, missing = (cert, key) if cert.exists() else (key, cert)
        raise SetupProblem(f"{there} is there, {missing} is not: add it, or move the other one away")
    return content


def _pair(root: str, own: dict[str, Any]) -> tuple[Path, Path]:
    base = ApiSettings()
    return Path(root, str(own.get("cert", base.cert))), Path(root, str(own.get("key", base.key)))


def _content(root: str) -> dict[str, Any]:
    path = Path(root, CLUSTER_JSON)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as failure:
        raise SetupProblem(f"{path} cannot be read: {in_words(failure)}") from None
    own = content.get("clusterd", {}) if isinstance(content, dict) else None
    if not isinstance(own, dict) or not isinstance(own.get("api", {}), dict):
        raise SetupProblem(f"{path} has mistakes; see clusterd check-config")
    return dict(content)


def turn_on(root: str, content: dict[str, Any], *, name: str, port: int | None = None) -> list[Path]:
    """Creates certificate and key if they are missing, and writes cluster.json; `content` is its current content.
    `name`: the node's. Returns what was created. Raises OSError."""
    own = content.setdefault("clusterd", {}).setdefault("api", {})
    cert, key = _pair(root, own)
    made: list[Path] = []
    if not cert.exists():
        cert_text, key_text = self_signed(name)
        _write_new(key, key_text, KEY_MODE)
        try:
            _write_new(cert, cert_text, CERT_MODE)
        except BaseException:
            key.unlink()  # one of both alone is refused
            raise
        made += [key, cert]
    own["enabled"] = True
    if port is not None:
        own["port"] = port
    path = Path(root, CLUSTER_JSON)
    mode, owner = JSON_MODE, owner_for_daemon(path.parent)
    if path.exists():
        found = path.stat()
        mode, owner = found.st_mode & 0o777, (found.st_uid, found.st_gid)
    write_atomic(FileOps(), str(path), json.dumps(content, indent=2).encode() + b"\n", mode)
    if os.geteuid() == 0:
        os.chown(path, *owner, follow_symlinks=False)
    return [*made, path]


def next_steps(root: str) -> list[str]:
    """Returns what an operator does after the API was turned on; the last line is its address."""
    lines = [f"It is on after: clusterd --root {root} restart"]
    with contextlib.suppress(UserProblem):
        if not read_users(root):
            lines.append(f"Nobody may use it yet: clusterd --root {root} api user add NAME")
    settings = load(root, with_api_files=False).settings
    if settings is not None:
        own = settings.clusterd.api
        host = own.host if own.host not in EVERY_ADDRESS else socket.getfqdn()
        lines.append(f"Then: https://{f'[{host}]' if ':' in host else host}:{own.port}/docs")
    return lines


def self_signed(name: str) -> tuple[bytes, bytes]:
    """Creates a certificate for this machine's names and the loopback addresses, and its key, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:LONGEST_NAME])])
    names = dict.fromkeys((socket.gethostname(), socket.getfqdn(), "localhost"))
    alternatives: list[x509.GeneralName] = [x509.DNSName(one) for one in names if one.isascii() and one]
    alternatives += [x509.IPAddress(ipaddress.ip_address(one)) for one in ("127.0.0.1", "::1")]
    now = datetime.datetime.now(datetime.UTC)
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    key_text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key_text


def _usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Writes a new file that the daemon can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)
            if os.geteuid() == 0:
                os.fchown(fd, *owner_for_daemon(path.parent))
            file.write(content)
    except BaseException:
        path.unlink()
        raise
