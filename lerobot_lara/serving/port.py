"""Listening at a port that may be taken."""

import socket


def bind(host: str, port: int) -> socket.socket:
    """Binds a socket; the caller closes it.

    Args:
        host: Address or name to listen at.
        port: Port; 0 takes a free one.

    Raises:
        ValueError: The port is taken, or the host is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise ValueError(
            f"`port` is {port}, and {host}:{port} cannot be listened at ({error.strerror or error}). Stop the other "
            "server, or pass another --port or --host."
        ) from error
    return bound
