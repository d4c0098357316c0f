"""A certification authority of our own, and servers that believe in it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from holdfast.local import MongoTls, RabbitServer, find_rabbitmq
from holdfast.local.ports import LOOPBACK, free_port


class Authority:
    """Issues certificates into a folder: ``<name>.pem``, ``<name>.key``, and both in ``<name>.both.pem``."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._ca = trustme.CA()
        self.ca = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.ca))

    def issue(self, name: str, *identities: str, expired: bool = False) -> Path:
        """A certificate for these host names and addresses, whose common name is its name. Gives its file."""
        begin = datetime(2020, 1, 1, tzinfo=UTC) if expired else None
        end = begin + timedelta(days=1) if begin else None
        who = identities or (f"{name}@example.org",)
        issued = self._ca.issue_cert(*who, common_name=name, not_before=begin, not_after=end)
        certificate = self.directory / f"{name}.pem"
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        issued.private_key_pem.write_to_path(str(certificate.with_suffix(".key")))
        issued.private_key_and_cert_chain_pem.write_to_path(str(certificate.with_suffix(".both.pem")))
        return certificate

    def query(self, name: str) -> str:
        """The options of an AMQP URL for this authority and a client certificate."""
        certificate = self.directory / f"{name}.pem"
        return f"cafile={self.ca}&certfile={certificate}&keyfile={certificate.with_suffix('.key')}"

    def of_mongo(self, server: str, client: str) -> MongoTls:
        """The files for a MongoDB."""
        return MongoTls(
            ca=self.ca, server=self.directory / f"{server}.both.pem", client=self.directory / f"{client}.both.pem"
        )


class TlsRabbit(RabbitServer):
    """A RabbitMQ with an encrypted listener beside the plain one, which demands client certificates.

    A client may log in by its certificate alone, as the user of its common name.
    """

    def __init__(self, directory: Path, authority: Authority, server: str) -> None:
        program = find_rabbitmq()
        inside = program.inside(directory)
        self.tls_port = free_port()
        directory.mkdir()
        for file in (authority.ca, authority.directory / f"{server}.pem", authority.directory / f"{server}.key"):
            (directory / file.name).write_bytes(file.read_bytes())
        config = {
            "listeners.ssl.1": f"{LOOPBACK}:{self.tls_port}",
            "ssl_options.cacertfile": str(inside / authority.ca.name),
            "ssl_options.certfile": str(inside / f"{server}.pem"),
            "ssl_options.keyfile": str(inside / f"{server}.key"),
            "ssl_options.verify": "verify_peer",
            "ssl_options.fail_if_no_peer_cert": "true",
            "auth_mechanisms.1": "PLAIN",
            "auth_mechanisms.2": "EXTERNAL",
            "ssl_cert_login_from": "common_name",
        }
        super().__init__(directory, program=program, plugins=["rabbitmq_auth_mechanism_ssl"], config=config)
