"""A Snowflake of our own on loopback: fakesnow's server, in its own environment, behind a certificate."""

from __future__ import annotations

import json
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

SERVE = Path(__file__).with_name("serve.py")
START_SECONDS = 60


@dataclass(frozen=True)
class Server:
    """Where the server listens, and the certificate that clients must trust."""

    port: int
    certificate: Path
    log: Path

    def connection(self, database: str, private_key: str) -> str:
        """Returns an Airflow connection, as JSON, with a database of its own."""
        extra = {
            "account": "fakesnow",
            "host": "localhost",
            "port": self.port,
            "database": database,
            "warehouse": "shop_wh",
            "role": "shop_pipeline",
            "private_key_content": private_key,
            "insecure_mode": True,  # no revocation list knows the certificate
        }
        return json.dumps(
            {"conn_type": "snowflake", "login": "shop_service", "schema": "shop", "extra": extra}
        )


def pem(key: rsa.RSAPrivateKey, passphrase: str | None = None) -> str:
    """Returns a private key as PEM text."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    ).decode()


def new_key() -> rsa.RSAPrivateKey:
    """Returns a fresh RSA key."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def write_certificate(folder: Path) -> tuple[Path, Path]:
    """Writes a self-signed certificate for localhost, and its key."""
    key = new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_text(pem(key))
    return folder / "cert.pem", folder / "key.pem"


@contextmanager
def serve(python: Path, folder: Path) -> Iterator[Server]:
    """Runs the server until the block ends; it ends by itself where this process dies."""
    certificate, key = write_certificate(folder)
    log = folder / "fakesnow.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [python, SERVE, certificate, key], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
    assert process.stdin is not None and process.stdout is not None
    try:
        answered, _, _ = select.select([process.stdout], [], [], START_SECONDS)
        port = process.stdout.readline() if answered else b""
        if not port:
            raise RuntimeError(f"fakesnow did not start in {START_SECONDS} s: {log.read_text()[-2000:]}")
        yield Server(int(port), certificate, log)
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(10)
