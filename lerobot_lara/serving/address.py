"""Addresses of servers."""

import socket


def bind(host: str, port: int) -> socket.socket:
    """Reserves an address; connections are refused until the server listens.

    Raises:
        ValueError: The port is in use or not allowed, or the host is not an address of this machine.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"`port` is {port}; it must be between 0 (any free one) and 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
        return bound
    except OSError as error:
        raise refused(host, port, error) from error


def refused(host: str, port: int, error: OSError) -> ValueError:
    """Says which part of an address the system refuses."""
    if isinstance(error, socket.gaierror):
        return ValueError(
            f"`host` {host!r} is not known ({error.strerror}). Give an address of this machine."
        )
    if "in use" in str(error):
        return ValueError(_in_use(port))
    return ValueError(
        f"`host` {host!r}, `port` {port}: the system refuses this address ({error.strerror or error}). Give an address "
        "of this machine, and a port above 1023."
    )


def _in_use(port: int) -> str:
    return f"`port` {port} is in use by another server. Stop it, or choose another with --port."
