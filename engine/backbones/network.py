"""Whether weights can be downloaded at all, asked before a client that retries or prints is started."""

import os
import socket

from tle.errors import BackboneError

_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def require_network(host: str, what: str, advice: str) -> None:
    """Say at once that `host` cannot be reached; behind a proxy its name need not resolve here, so nothing is asked.

    Args:
        host: name of the host that has the weights.
        what: which weights, for the message.
        advice: what to do without a network, for the message.

    Raises:
        BackboneError: the name does not resolve.
    """
    if any(os.environ.get(name) for name in _PROXIES):
        return
    try:
        socket.getaddrinfo(host, 443)
    except OSError as error:
        raise BackboneError(
            f"{what} are not here and cannot be downloaded ({host}: {error.strerror or error}); {advice}"
        ) from error
