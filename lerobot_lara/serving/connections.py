"""Clients of a policy server: websockets with bounded messages and waiting, and an answer to every mistake."""

import json
import logging
import socket
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus
from vla_eval.model_servers.base import SessionContext
from vla_eval.protocol.messages import Message, MessageType, make_hello_payload, pack_message, unpack_message
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from lerobot_lara.serving.address import refused
from lerobot_lara.serving.policy_server import PolicyServer

logger = logging.getLogger(__name__)
# Which says nothing of every connection, as `_Client` does.
websocket_logger = logging.getLogger(f"{__name__}.websockets")
websocket_logger.setLevel(logging.WARNING)

CLOSE_SECONDS = 5.0
TRY_AGAIN_LATER = 1013  # RFC 6455's registry of close codes


@dataclass(frozen=True)
class Limits:
    """What one client may use.

    Args:
        message_bytes: Largest message; a larger one ends the connection.
        clients: Most clients at a time; a further one is turned away.
        idle_seconds: A client that sends nothing for so long is disconnected.
        send_seconds: A client that takes so long to read an answer is disconnected.

    Raises:
        ValueError: A limit is not positive.
    """

    message_bytes: int = 64 * 1024**2
    clients: int = 64
    idle_seconds: float = 3600.0
    send_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"`{name}` is {value}; it must be above 0.")


async def serve_clients(
    server: PolicyServer,
    bound: socket.socket,
    limits: Limits,
    *,
    task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until it is canceled.

    Args:
        server: The policy.
        bound: Address of `bind`.
        limits: What one client may use.
        task_status: Told the port when clients can connect.

    Raises:
        ValueError: The address has been taken since it was bound.
    """
    clients: set[ServerConnection] = set()
    host, port = bound.getsockname()[:2]

    async def handle(connection: ServerConnection) -> None:
        if len(clients) >= limits.clients:
            reason = f"the server has its {limits.clients} clients; try again later"
            await _Client(connection, server, limits).send(MessageType.ERROR, {"error": reason}, seq=0)
            await connection.close(TRY_AGAIN_LATER, reason)
            return
        clients.add(connection)
        try:
            await _Client(connection, server, limits).run()
        finally:
            clients.discard(connection)

    async with anyio.create_task_group() as tasks:
        await server.on_serve_start(tasks)
        try:
            listening = await serve(
                handle,
                sock=bound,
                # No website that the user visits may use the policy: browsers always send an origin.
                origins=[None],
                process_request=_answer_http(server),
                compression=None,
                max_size=limits.message_bytes,
                # A simulator that computes answers no pings.
                ping_interval=None,
                logger=websocket_logger,
            )
        except OSError as error:
            raise refused(host, port, error) from error
        try:
            task_status.started(port)
            await anyio.sleep_forever()
        finally:
            # Canceled by now: says goodbye all the same.
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                listening.close()
                await listening.wait_closed()


def _answer_http(server: PolicyServer) -> Callable[[ServerConnection, Any], Any]:
    """Answers GET /health and GET /metadata, so that scripts can wait for the server and ask what it serves."""
    pages = {"/health": {"status": "ok"}, "/metadata": server.metadata()}

    def answer(connection: ServerConnection, request: Any) -> Any:
        page = pages.get(request.path)
        if page is None:
            return None
        response = connection.respond(HTTPStatus.OK, json.dumps(page) + "\n")
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = "application/json"
        return response

    return answer


class _Client:
    """One connection; its observations are answered in order."""

    def __init__(self, connection: ServerConnection, server: PolicyServer, limits: Limits) -> None:
        self.connection = connection
        self.server = server
        self.limits = limits
        # Not what the client calls itself, so that no two clients can share an episode.
        self.session = str(uuid.uuid4())
        self.seq = 0
        self.context = self._new_context()

    def _new_context(self) -> SessionContext:
        context = SessionContext(session_id=self.session, episode_id=str(uuid.uuid4()))
        context._send_action_fn = self._send_action
        return context

    async def _send_action(self, payload: dict[str, Any]) -> None:
        await self.send(MessageType.ACTION, self.server.to_client(payload, self.context), self.seq)

    async def send(self, kind: MessageType, payload: dict[str, Any], seq: int) -> None:
        """Sends a message.

        Raises:
            TimeoutError: The client does not read.
        """
        with anyio.fail_after(self.limits.send_seconds):
            await self.connection.send(pack_message(Message(type=kind, payload=payload, seq=seq)))

    async def run(self) -> None:
        """Answers messages until the client goes, is idle or does not read."""
        name = self.session[:8]
        logger.info("Client %s connected", name)
        try:
            while True:
                with anyio.fail_after(self.limits.idle_seconds):
                    data = await self.connection.recv()
                await self._answer(data)
        except ConnectionClosed as error:
            logger.info("Client %s disconnected%s", name, f" ({error.reason})" if error.reason else "")
        except TimeoutError:
            logger.warning("Client %s is disconnected: it sent or read nothing for too long", name)
        finally:
            await self.server.on_episode_end({}, self.context)
            self.server.forget_client(self.session)

    async def _answer(self, data: bytes | str) -> None:
        """Answers one message; a mistake is answered too, and ends nothing."""
        seq = 0
        try:
            message = await anyio.to_thread.run_sync(partial(_read, data))
            seq = message.seq
            await self._handle(message)
        except (ConnectionClosed, TimeoutError):
            raise
        except Exception as error:
            if not isinstance(error, ValueError):
                logger.exception("Client %s: a message failed", self.session[:8])
            else:
                logger.warning("Client %s: %s", self.session[:8], error)
            await self.send(MessageType.ERROR, {"error": f"{type(error).__name__}: {error}"}, seq)

    async def _handle(self, message: Message) -> None:
        if message.type is MessageType.HELLO:
            await self.send(MessageType.HELLO, _hello(self.server), message.seq)
        elif message.type is MessageType.EPISODE_START:
            self.context = self._new_context()
            await self.server.on_episode_start(message.payload, self.context)
        elif message.type is MessageType.OBSERVATION:
            self.seq = message.seq
            await self.server.on_observation(message.payload, self.context)
            self.context._increment_step()
        elif message.type is MessageType.EPISODE_END:
            await self.server.on_episode_end(message.payload, self.context)
        elif message.type is MessageType.ERROR:
            logger.warning("Client %s reports: %s", self.session[:8], message.payload)
        else:
            raise ValueError(f"A client does not send {message.type.value!r}.")


def _read(data: bytes | str) -> Message:
    """Decodes a message.

    Raises:
        ValueError: It is none of the protocol's.
    """
    if isinstance(data, str):
        raise ValueError("The message is text; vla-eval's protocol sends msgpack, as binary.")
    message = unpack_message(data)
    if not isinstance(message.payload, dict) or not isinstance(message.seq, int):
        raise ValueError("The message's `payload` must be a mapping, and its `seq` a whole number.")
    return message


def _hello(server: PolicyServer) -> dict[str, Any]:
    return make_hello_payload(
        model_server=type(server).__name__,
        capabilities={},
        observation_params=server.get_observation_params(),
        action_spec={name: spec.to_dict() for name, spec in server.get_action_spec().items()},
        observation_spec={name: spec.to_dict() for name, spec in server.get_observation_spec().items()},
        metadata=server.metadata(),
    )
