"""URLs of brokers and databases: lists of them, and made fit for logs and error messages."""

import re

from yarl import URL

#: What separates the URLs of a list. Commas within a URL, a password's for example, are its own.
_BETWEEN_URLS = re.compile(r"[\s,]+(?=amqps?://)", re.IGNORECASE)
_SECRET_OPTION = re.compile(
    r"([?&;][^=&;]*(?:pass|pwd|secret|token|key|credential|properties)[^=&;]*=)[^&;#]*", re.IGNORECASE
)


def amqp_urls(text: str) -> tuple[URL, ...]:
    """The AMQP URLs in a text that holds one, or several separated by commas or white space: nodes of one cluster.

    :raises ValueError: if one cannot be used, or if they differ in their users or virtual hosts. Its message shows
        nothing of the text.
    """
    urls = []
    for part in _BETWEEN_URLS.split(text.strip(", \t\r\n")):
        try:
            url = URL(part)
        except ValueError:
            # Not its message: it may quote a part of the password.
            url = URL()
        if url.scheme not in ("amqp", "amqps") or not url.host or re.search(r"\s", part) or is_ambiguous(part):
            raise ValueError("not an AMQP URL, amqp://user:password@host:5672/vhost; encode what is special in them")
        urls.append(url)
    if len({(url.user, url.path[1:] or "/") for url in urls}) > 1:
        # Who sends a command is a part of what it is: the same one must be the same by way of any node.
        raise ValueError("several AMQP URLs are nodes of one cluster: they need the same user and virtual host")
    return tuple(urls)


def user_of(text: str) -> str | None:
    """The user as whom the URLs log in; None if that is told by a certificate, and so known to the broker alone.

    :raises ValueError: as ``amqp_urls``.
    """
    url = amqp_urls(text)[0]
    return url.user or (None if url.query.get("auth") == "external" else "guest")


def is_ambiguous(url: str) -> bool:
    """Whether it holds a second ``@``, most likely in a password that should have been percent-encoded. Who reads it
    another way may take a piece of the password for a host, ask the network for it, and name it in an error.
    """
    return url.count("@") > 1


def mask_url(url: str) -> str:
    """The URL without its password, and without the options that may hold a secret.

    Made for ``amqp://`` and ``mongodb://`` URLs, several hosts included, and for lists of ``amqp://`` URLs. A text
    that is no proper URL, such as one whose password holds an unescaped ``@`` or ``/``, loses too much rather than too
    little.
    """
    parts = _BETWEEN_URLS.split(url)
    # One without a user among others with one may be a piece of a password.
    if len({"@" in part for part in parts}) == 1:
        return ", ".join(map(_mask_one, parts))
    return _mask_one(url)


def _mask_one(url: str) -> str:
    scheme, separator, rest = url.rpartition("://") if "@" not in url else url.partition("://")
    if not separator:
        scheme, rest = "", url
    # The last @ counts, wherever it is: what stands before it may be a password that should have been escaped.
    user_info, at, place = rest.rpartition("@")
    user, colon, _ = user_info.partition(":")
    secret = "***" if colon else ""
    # Of a user without a password nothing but a name can be told, unless it is no name.
    if not colon and re.search(r"[/?#@]", user):
        user = "***"
    return f"{scheme}{separator}{user}{colon}{secret}{at}" + _SECRET_OPTION.sub(r"\1***", place)
