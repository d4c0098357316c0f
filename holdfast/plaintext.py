"""Passwords on their way in plain text: which hosts a URL would send one to without encryption."""

import ipaddress
import re
from urllib.parse import parse_qsl, unquote

#: Between the URLs of a list of brokers.
_BETWEEN_URLS = re.compile(r"[\s,]+(?=amqps?://)", re.IGNORECASE)
_NO = frozenset({"false", "0", "no"})


class PlaintextWarning(UserWarning):
    """A password goes to another machine in plain text. Silence it by a filter of ``warnings`` where that is wanted."""


def exposed_hosts(url: str) -> list[str]:
    """The hosts other than this machine to which this URL, or list of URLs, sends a password in plain text.

    For ``amqp://`` and ``mongodb://`` URLs. What comes after the login can be read on the way just as well.
    """
    return list(dict.fromkeys(host for part in _BETWEEN_URLS.split(url) for host in _hosts(part.strip(", \t\r\n"))))


def told(host: str) -> str:
    """What is said of one of them."""
    return (
        f"the connection to {host} is not encrypted: password and data can be read on the way. "
        "Use TLS (docs/security.md)"
    )


def _hosts(url: str) -> list[str]:
    scheme, _, rest = url.partition("://")
    # The last @ counts: what stands before it may be a password that should have been escaped.
    user_info, at, place = rest.rpartition("@")
    if not at or ":" not in user_info or _is_encrypted(scheme.lower(), place):
        return []
    authority = re.split(r"[/?#]", place, maxsplit=1)[0]
    return [host for host in map(_without_port, authority.split(",")) if host and not _is_here(host)]


def _is_encrypted(scheme: str, place: str) -> bool:
    if scheme not in ("mongodb", "mongodb+srv"):
        return scheme != "amqp"
    options = {name.lower(): value.lower() for name, value in parse_qsl(place.partition("?")[2])}
    # Where hosts are looked up in the DNS, encryption is the default.
    chosen = options.get("tls", options.get("ssl", "true" if scheme == "mongodb+srv" else "false"))
    return chosen not in _NO


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return unquote(host.partition(":")[0])


def _is_here(host: str) -> bool:
    if host.lower() == "localhost" or host.lower().endswith(".localhost") or "/" in host:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
