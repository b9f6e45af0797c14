"""Key pairs with self-signed certificates that are good for one attempt of one task."""

from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from vbrcore.mover.messages import Proof

# A connection is made within a minute; what is left is for clocks that are wrong, either way.
BEFORE: Final = timedelta(days=1)
AFTER: Final = timedelta(days=1)


def key_pair(name: str, *, now: datetime | None = None) -> tuple[bytes, bytes]:
    """Return (certificate, private key), both PEM. ECDSA over P-256: 0.3 ms, and known to every TLS there is."""
    now = now or datetime.now(UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BEFORE)
        .not_valid_after(now + AFTER)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), private


def proofs(now: datetime | None = None) -> tuple[Proof, Proof]:
    """Return what the source and the target of one attempt prove themselves with, and whom they accept."""
    source, source_key = key_pair("source", now=now)
    target, target_key = key_pair("target", now=now)
    return Proof(source, source_key, target), Proof(target, target_key, source)
