"""Group commits go to MariaDB over TLS where the store's URL wants that, and not at all where it cannot be had."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trustme
from sqlalchemy import create_engine
from txcoord_proto.errors import StoreUnavailableError
from txcoord_server.store.mysql import MysqlDialect

from tests.servers import Server, free_port
from tests.servers.mariadb import MARIADB
from tests.servers.process import ServerProcess
from tests.servers.recipe import Launch


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def encrypting(mariadb: Server, authority: trustme.CA) -> Iterator[str]:
    """A MariaDB of our own, which has a certificate."""
    issued = authority.issue_cert("127.0.0.1")
    pem = b"".join(blob.bytes() for blob in issued.cert_chain_pems).decode()

    def launch(directory: Path, port: int) -> Launch:
        assert MARIADB.launch is not None
        plain = MARIADB.launch(directory, port)
        options = (f"--ssl-cert={directory / 'server.pem'}", f"--ssl-key={directory / 'server.key'}")
        files = {"server.pem": pem, "server.key": issued.private_key_pem.bytes().decode()}
        return replace(plain, command=(*plain.command, *options), files=files)

    with TemporaryDirectory(prefix="txcoord-mariadb-tls-") as directory:
        process = ServerProcess(replace(MARIADB, launch=launch), free_port(), Path(directory))
        process.start()
        yield process.url
        process.close()


async def cipher(url: str) -> str:
    """What the connection of group commits is encrypted with."""
    dialect = MysqlDialect("default", 3_000)
    engine = create_engine(url.replace("mysql:", "mysql+pymysql:"))
    raw = await dialect.connect(engine)
    async with raw.cursor() as cursor:
        await cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
        ((_, name),) = await cursor.fetchall()
    dialect.close(raw)
    return str(name)


async def test_the_connection_is_encrypted_and_the_server_is_known(
    encrypting: str, authority: trustme.CA, tmp_path: Path
) -> None:
    ca, other = tmp_path / "ca.pem", tmp_path / "other.pem"
    authority.cert_pem.write_to_path(str(ca))
    trustme.CA().cert_pem.write_to_path(str(other))
    assert await cipher(encrypting), "whoever it is"
    assert await cipher(f"{encrypting}?ssl_ca={ca}")
    with pytest.raises(StoreUnavailableError, match="certificate verify failed"):
        await cipher(f"{encrypting}?ssl_ca={other}")
    stranger = encrypting.replace("127.0.0.1", "localhost")
    with pytest.raises(StoreUnavailableError, match="certificate"):
        await cipher(f"{stranger}?ssl_ca={ca}")
    assert await cipher(f"{stranger}?ssl_ca={ca}&ssl_check_hostname=false")


async def test_a_server_without_tls_is_refused(mariadb: Server, authority: trustme.CA, tmp_path: Path) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with pytest.raises(StoreUnavailableError, match="asks for TLS, which the database does not offer"):
        await cipher(f"{mariadb.url}?ssl_ca={tmp_path / 'ca.pem'}")
