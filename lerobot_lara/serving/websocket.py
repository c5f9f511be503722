"""Runs a model server of vla-eval within limits, and answers each bad message instead of hanging up."""

import json
import logging
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Any

import anyio
from vla_eval.model_servers.serve import _handle_connection, _make_process_request
from vla_eval.protocol.messages import Message, MessageType, pack_message, unpack_message
from websockets.asyncio.server import ServerConnection, serve

from lerobot_lara.serving.model_server import PolicyModelServer
from lerobot_lara.serving.port import bind

logger = logging.getLogger(__name__)

LARGEST_MESSAGE = 64 * 2**20
"""Bytes; four images of 2160 x 1600 pixels fit."""
SILENCE = 600.0
"""Seconds without a message after which a client is taken for gone."""


async def serve_policy(
    server: PolicyModelServer,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    max_clients: int = 64,
    largest_message: int = LARGEST_MESSAGE,
    silence: float = SILENCE,
    started: Callable[[int], None] = lambda port: None,
) -> None:
    """Serves until it is cancelled.

    Args:
        server: The policy.
        host: Address to listen at. The protocol has no authentication: whoever reaches it can use the policy.
        port: Port; 0 takes a free one.
        max_clients: Most clients at a time; another is turned away.
        largest_message: Bytes; a client that sends more is cut off.
        silence: Seconds without a message after which a client is cut off.
        started: Called with the port when the server listens.

    Raises:
        ValueError: The port is taken, or the host cannot be listened at.
    """
    clients = 0

    async def handle(connection: ServerConnection) -> None:
        nonlocal clients
        if clients >= max_clients:
            logger.warning("Turned a client away: there are %d already.", clients)
            await connection.close(1013, f"there are {clients} clients already")
            return
        clients += 1
        try:
            await _handle_connection(_Checked(connection, silence), server)
        finally:
            clients -= 1

    control = _make_process_request(server)

    def answer(connection: ServerConnection, request: Any) -> Any:
        if request.path != "/metadata":
            return control(connection, request)
        response = connection.respond(HTTPStatus.OK, json.dumps(server.describe()) + "\n")
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = "application/json"
        return response

    with bind(host, port) as listener:
        async with anyio.create_task_group() as group:
            await server.on_serve_start(group)
            async with serve(
                handle,
                sock=listener,
                process_request=answer,
                compression=None,
                max_size=largest_message,
                ping_interval=None,  # the first chunk may take longer than any ping
            ) as listening:
                started(listener.getsockname()[1])
                await listening.serve_forever()


class _Checked:
    """A connection that gives only sound messages to the harness's handler, which a bad one would end.

    Args:
        connection: The client's.
        silence: Seconds without a message after which it is closed.
    """

    def __init__(self, connection: ServerConnection, silence: float) -> None:
        self._connection = connection
        self._silence = silence

    async def send(self, data: bytes) -> None:
        """Sends a message."""
        await self._connection.send(data)

    async def __aiter__(self) -> AsyncIterator[bytes | str]:
        """Yields messages until the client goes; a bad one is answered with an error instead."""
        while True:
            data = None
            with anyio.move_on_after(self._silence):
                data = await self._connection.recv()
            if data is None:
                await self._connection.close(1001, f"no message for {self._silence:g} s")
                return
            problem = await anyio.to_thread.run_sync(_find_problem, data)
            if problem is None:
                yield data
                continue
            logger.warning("A bad message was answered with an error: %s", problem)
            await self.send(pack_message(Message(MessageType.ERROR, {"error": f"bad_message: {problem}"})))


def _find_problem(data: bytes | str) -> str | None:
    """Why a message cannot be handled; None if it can."""
    if isinstance(data, str):
        return "it is text, and must be msgpack"
    try:
        message = unpack_message(data)
    except Exception as error:  # whatever foreign bytes do to the decoder
        return str(error)
    if not isinstance(message.payload, dict):
        return f"`payload` is {type(message.payload).__name__}, and must be a map"
    if type(message.seq) is not int:
        return f"`seq` is {message.seq!r}, and must be a whole number"
    recording = message.payload.get("recording")
    if message.type is MessageType.EPISODE_START and recording and not isinstance(recording, dict):
        return f"`recording` is {type(recording).__name__}, and must be a map"
    return None
