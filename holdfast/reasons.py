"""Why a connection could not be made: what drivers raise, in words for people who have to mend it."""

import asyncio
import errno
import socket
import ssl
from collections.abc import Iterator

from aiormq.exceptions import AuthenticationError, ProbableAuthenticationError

#: By OpenSSL's reason. What it calls an alert is what the other side had to say.
_OF_TLS = {
    "WRONG_VERSION_NUMBER": "the server does not speak TLS on this port",
    "RECORD_LAYER_FAILURE": "the server does not speak TLS on this port",
    "UNEXPECTED_EOF_WHILE_READING": "the server ended the connection during the TLS handshake",
    "KEY_VALUES_MISMATCH": "certificate and key do not belong together",
    "NO_CERTIFICATE_OR_CRL_FOUND": "the CA file holds no certificate",
    "BAD_PASSWORD_READ": "the key file is encrypted",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the server demands a client certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "the server does not know the CA of the client certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the server finds the client certificate expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "the server finds the client certificate revoked",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the server does not accept the client certificate",
    # Before TLS 1.3 a server that misses a client certificate says no more than this.
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the server refused the handshake; it may demand a client certificate",
}
_OF_FILES = frozenset({errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR})


def reason_of(fault: BaseException) -> str | None:
    """What is wrong, as far as the causes of a fault tell it; None if they don't. It holds nothing of any URL, and so
    no password.
    """
    return next(filter(None, map(_of_one, _causes(fault))), None)


def _causes(fault: BaseException | None) -> Iterator[BaseException]:
    """The fault, and what it came from. Drivers raise things again from themselves, so that it may go round."""
    seen: set[int] = set()
    while fault is not None and id(fault) not in seen:
        seen.add(id(fault))
        yield fault
        fault = fault.__cause__ or fault.__context__


def _of_one(fault: BaseException) -> str | None:
    match fault:
        case ssl.SSLCertVerificationError():
            return f"the server's certificate is not accepted: {fault.verify_message}"
        case ssl.SSLError():
            return _OF_TLS.get(fault.reason) or f"TLS failed: {fault.reason or 'no reason is given'}"
        case socket.gaierror():
            return "the name of the host cannot be resolved"
        case ConnectionRefusedError():
            return "nothing listens there"
        case asyncio.IncompleteReadError(partial=b""):
            return "the server ended the connection without a word; it may expect TLS there, or no AMQP at all"
        case ProbableAuthenticationError():
            return "the server refused the login"
        case AuthenticationError(args=(str(offered), *_)):
            return f"the server refused the login: it offers {offered} only, and the URL asks for another way (auth=…)"
        case TimeoutError():
            return "no answer in time"
        case OSError(errno=number) if number in _OF_FILES:
            return f"a file with a certificate or key cannot be read: {fault.strerror}"
        case _:
            return None
