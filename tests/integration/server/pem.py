"""Certificates for tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Pem:
    """An authority's files."""

    folder: Path
    authority: trustme.CA

    @property
    def ca(self) -> Path:
        """Its own certificate."""
        path = self.folder / "ca.pem"
        self.authority.cert_pem.write_to_path(path)
        return path

    def pair(self, name: str) -> tuple[Path, Path]:
        """A certificate for `name`, and its key."""
        issued = self.authority.issue_cert(name)
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        issued.private_key_pem.write_to_path(key)
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        return certificate, key

    def serving(self, name: str = "127.0.0.1") -> tuple[str, ...]:
        """Options of a coordinator with such a certificate."""
        certificate, key = self.pair(name)
        return ("--tls-cert", str(certificate), "--tls-key", str(key))
