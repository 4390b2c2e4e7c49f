"""Nodes for the tests of `clusterd doctor`."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from clusterd.config.loading import load
from clusterd.settings import Settings
from tests.net.harness import CLUSTER, KEY
from tools.doctor.finding import Finding
from tools.init_node import init_node


def node(root: Path, **given: Any) -> Settings:
    """The settings of a new node."""
    wanted = {"node_type": "worker", "name": "w1", "cluster": CLUSTER, "port": None, "bind": "127.0.0.1"} | given
    key = KEY if isinstance(KEY, str) else KEY.decode()
    master = "127.0.0.1" if wanted["node_type"] == "worker" else None
    init_node(str(root), key_file=None, environment_key=key, master=master, **wanted)
    settings = load(str(root)).settings
    assert settings is not None
    return settings


def named(found: Iterator[Finding]) -> dict[str, Finding]:
    return {one.name: one for one in found}


def certificate(path: Path, ends: datetime, key_file: Path | None = None) -> None:
    """Writes a certificate that is good for the hundred days before `ends`, for the key in that file."""
    if key_file is None:
        key = ec.generate_private_key(ec.SECP256R1())
    else:
        loaded = serialization.load_pem_private_key(key_file.read_bytes(), None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        key = loaded
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "m")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(ends - timedelta(days=100))
        .not_valid_after(ends)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
