"""URLs of brokers and databases, made fit for logs and error messages."""

import re

_SECRET_OPTION = re.compile(
    r"([?&;][^=&;]*(?:pass|pwd|secret|token|key|credential|properties)[^=&;]*=)[^&;#]*", re.IGNORECASE
)


def mask_url(url: str) -> str:
    """The URL without its password, and without the options that may hold a secret.

    Made for ``amqp://`` and ``mongodb://`` URLs, several hosts included. A text that is no proper URL, such as one
    whose password holds an unescaped ``@`` or ``/``, loses too much rather than too little.
    """
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
