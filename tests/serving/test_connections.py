"""`lara serve` and clients that make mistakes, go away, are slow or too many: the server lives on."""

import http.client
import json
import socket
import time

import anyio
import msgpack
import numpy as np
import pytest
import websockets
from support.policies import CAMERA
from support.served import observation, run_client, running, save_checkpoint
from vla_eval.connection import Connection
from vla_eval.protocol.messages import Message, MessageType, pack_message, unpack_message

from lerobot_lara import cli
from lerobot_lara.serving.address import bind
from lerobot_lara.serving.command import parse_image_keys
from lerobot_lara.serving.connections import Limits
from lerobot_lara.serving.policy_server import PolicyServer

WRIST = "observation.images.wrist"
FRONT = "observation.images.front"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> PolicyServer:
    return PolicyServer(save_checkpoint(tmp_path_factory.mktemp("policy")))


async def act(connection: Connection, sent: dict | None = None) -> np.ndarray:
    """Starts an episode and returns its first action."""
    await connection.start_episode({"task": {}})
    return (await connection.act(sent or observation()))["actions"]


async def is_served(url: str) -> bool:
    async with Connection(url, max_retries=1) as connection:
        return (await act(connection)).shape == (4,)


async def exchange(url: str, *messages: bytes | str) -> list[Message]:
    """Sends raw messages on one connection, each after the answer to the one before."""
    async with websockets.connect(url) as connection:
        answers = []
        for message in messages:
            await connection.send(message)
            answers.append(unpack_message(await connection.recv()))
        return answers


def packed(**changes: object) -> bytes:
    return msgpack.packb({"type": "hello", "payload": {}, "seq": 1, "timestamp": 0.0} | changes)


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (b"\xc1 garbage", "decode msgpack"),
        (b"", "decode msgpack"),
        ("text", "binary"),
        (msgpack.packb([1, 2]), "Expected msgpack dict"),
        (msgpack.packb({"type": "hello"}), "missing required fields"),
        (packed(type="dance"), "Unknown message type"),
        (packed(type="action"), "does not send 'action'"),
        (packed(payload=3), "`payload`"),
        (packed(seq="one"), "`seq`"),
        (
            packed(payload={"__ndarray__": True, "data": b"12", "dtype": "<f4", "shape": [7]}),
            "decode msgpack",
        ),
        (packed(payload={"__image__": True, "format": "png", "data": b"no", "shape": [1]}), "decode msgpack"),
    ],
)
def test_a_bad_message_is_answered_and_the_connection_lives_on(server, message, problem):
    with running(server) as url:
        error, hello = run_client(exchange, url, message, packed())
        assert run_client(is_served, url)
    assert error.type is MessageType.ERROR and problem in error.payload["error"]
    assert hello.type is MessageType.HELLO


def test_every_mismatch_of_an_observation_is_in_one_answer(tmp_path):
    server = PolicyServer(save_checkpoint(tmp_path, cameras=(FRONT, WRIST)))
    wrong = {
        "images": {
            "front": np.zeros((40, 30, 3), np.uint8),
            "hand": np.zeros((32, 32, 3), np.uint8),
        },
        "states": np.array([0.0, np.nan]),
        "task_description": 3,
    }

    async def errors(url: str) -> tuple[str, np.ndarray]:
        async with Connection(url, max_retries=1) as connection:
            with pytest.raises(RuntimeError) as error:
                await act(connection, wrong)
            images = dict.fromkeys(("front", "wrist"), np.zeros((32, 32, 3), np.uint8))
            return str(error.value), (await connection.act(observation() | {"images": images}))["actions"]

    with running(server) as url:
        message, action = run_client(errors, url)
    assert message.startswith("Server error: {'error': \"ValueError: The observation does not fit")
    for part in (
        "'front' is 40 x 30; observation.images.front is 32 x 32",
        "--resize",
        "--image-keys hand=observation.images.wrist",
        "`states` has shape (2,); the policy's state is (3,)",
        "--state-key",
        "`task_description` is of type int",
    ):
        assert part in message
    assert action.shape == (4,)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"states": np.array([0.0, np.nan, 1.0])}, r"`states` is not finite at \[1\]"),
        ({"states": None}, "no `states` or `state` among images.*send_state=true"),
        ({"states": "home"}, "`states` is no vector of numbers"),
        ({"images": None}, "`images` is of type NoneType"),
        ({"images": {}}, f"no camera for {CAMERA} among none"),
        ({"images": {"image": np.zeros((32, 32, 3), np.float32)}}, "float32.*must be uint8 RGB"),
        ({"images": {"image": np.zeros((32, 32), np.uint8)}}, "must be uint8 RGB"),
        ({"images": {"image": [1, 2]}}, "of type list"),
    ],
)
def test_one_wrong_part_is_named(server, changes, problem):
    async def error(url: str) -> None:
        async with Connection(url, max_retries=1) as connection:
            with pytest.raises(RuntimeError, match=problem):
                await act(connection, observation() | changes)

    with running(server) as url:
        run_client(error, url)
        assert run_client(is_served, url)


def test_a_state_may_have_another_key(tmp_path):
    async def play(url: str) -> None:
        async with Connection(url, max_retries=1) as connection:
            sent = observation()
            await act(connection, {**sent, "tcp": sent.pop("states")})
            with pytest.raises(RuntimeError, match="no `tcp`"):
                await act(connection)

    with running(PolicyServer(save_checkpoint(tmp_path), state_key="tcp")) as url:
        run_client(play, url)


def test_an_observation_without_an_episode_is_refused(server):
    async def play(url: str) -> None:
        async with Connection(url, max_retries=1) as connection:
            with pytest.raises(RuntimeError, match="Send EPISODE_START first"):
                await connection.act(observation())
            await act(connection)
            await connection.end_episode({})
            with pytest.raises(RuntimeError, match="Send EPISODE_START first"):
                await connection.act(observation())

    with running(server) as url:
        run_client(play, url)


@pytest.mark.parametrize("where", ["policy", "postprocessor"])
def test_actions_that_are_not_finite_are_not_sent(tmp_path, where):
    server = PolicyServer(save_checkpoint(tmp_path))
    predict, postprocess = server._policy.predict_action_chunk, server._postprocess
    broken = [True]

    def nan_chunk(batch):
        chunk = predict(batch)
        return chunk * float("nan") if broken[0] and where == "policy" else chunk

    def nan_action(action):
        action = postprocess(action)
        return action * float("nan") if broken[0] and where == "postprocessor" else action

    server._policy.predict_action_chunk, server._postprocess = nan_chunk, nan_action

    async def play(url: str) -> np.ndarray:
        async with Connection(url, max_retries=1) as connection:
            with pytest.raises(RuntimeError, match="actions are not finite"):
                await act(connection)
            broken[0] = False
            return (await connection.act(observation()))["actions"]

    with running(server) as url:
        assert run_client(play, url).shape == (4,)


def test_one_clients_failure_is_not_its_neighbors(tmp_path):
    """Also when both are in one batch."""
    server = PolicyServer(save_checkpoint(tmp_path), batch_size=2)
    server.max_wait_time = 0.5
    predict, sizes = server._policy.predict_action_chunk, []

    def predict_or_fail(batch):
        sizes.append(len(batch["task"]))
        if "fail" in batch["task"]:
            raise ValueError("This instruction fails.")
        return predict(batch)

    server._policy.predict_action_chunk = predict_or_fail

    async def together(url: str) -> list[object]:
        async def one(task: str) -> None:
            async with Connection(url, max_retries=1) as connection:
                try:
                    results[task] = (await act(connection, observation(task=task))).shape
                except RuntimeError as error:
                    results[task] = str(error)

        results: dict[str, object] = {}
        async with anyio.create_task_group() as tasks:
            for task in ("first", "fail", "second"):
                tasks.start_soon(one, task)
        return [results[task] for task in ("first", "second", "fail")]

    with running(server) as url:
        first, second, failed = run_client(together, url)
    assert 2 in sizes
    assert first == second == (4,)
    assert "This instruction fails." in str(failed)


def test_a_client_that_goes_mid_episode_leaves_the_others_alone(server):
    async def play(url: str) -> np.ndarray:
        async with Connection(url, max_retries=1) as stays:
            await act(stays)
            async with Connection(url, max_retries=1) as goes:
                await goes.start_episode({})
                await goes.send_observation(observation())
                goes._ws.transport.abort()
            remaining = server._chunk_buffers
            with anyio.fail_after(10):
                while len(server._episodes) > 1 or len(remaining) > 1:
                    await anyio.sleep(0.01)
            return (await stays.act(observation()))["actions"]

    with running(server) as url:
        assert run_client(play, url).shape == (4,)
    assert not server._started


def test_a_message_that_is_too_large_ends_only_its_connection(server):
    async def play(url: str) -> None:
        with pytest.raises(websockets.ConnectionClosedError, match="1009"):
            await exchange(url, b"0" * 20_000)

    with running(server, message_bytes=10_000) as url:
        run_client(play, url)
        assert run_client(is_served, url)


def test_one_client_too_many_is_turned_away(server):
    async def play(url: str) -> None:
        async with Connection(url, max_retries=1):
            async with websockets.connect(url) as late:
                answer = unpack_message(await late.recv())
                assert "has its 1 clients" in answer.payload["error"]
                with pytest.raises(websockets.ConnectionClosed, match="1013"):
                    await late.recv()

    with running(server, clients=1) as url:
        run_client(play, url)
        time.sleep(0.1)
        assert run_client(is_served, url)


def test_a_silent_client_is_disconnected(server):
    async def play(url: str) -> None:
        async with websockets.connect(url) as connection:
            with pytest.raises(websockets.ConnectionClosed):
                await connection.recv()

    with running(server, idle_seconds=0.2) as url:
        run_client(play, url)


def test_websites_are_not_served(server):
    async def play(url: str) -> None:
        with pytest.raises(websockets.InvalidStatus, match="403"):
            await websockets.connect(url, origin="http://example.com")

    with running(server) as url:
        run_client(play, url)


def test_health_and_metadata_can_be_asked_by_http(server):
    with running(server) as url:
        pages = []
        for page in ("health", "metadata"):
            connection = http.client.HTTPConnection(url.removeprefix("ws://"), timeout=10)
            connection.request("GET", f"/{page}")
            pages.append(json.load(connection.getresponse()))
            connection.close()
    assert pages == [{"status": "ok"}, server.metadata()]


@pytest.mark.parametrize("listening", [True, False])
def test_two_servers_on_one_port_are_refused(server, tmp_path, capsys, listening):
    """The second one, before it loads anything."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if listening:
            taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"`port` {port} is in use.*--port"):
            bind("127.0.0.1", port)
        assert cli.main(["serve", str(tmp_path), "--port", str(port)]) == 2
    assert f"`port` {port} is in use" in capsys.readouterr().err


def test_a_port_that_is_taken_between_binding_and_listening_is_refused(server):
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with bind("127.0.0.1", port) as second:
            first.listen()
            with pytest.raises(ValueError, match=f"`port` {port} is in use"):
                anyio.run(_serve, server, second)


async def _serve(server, bound):
    from lerobot_lara.serving.connections import serve_clients

    try:
        await serve_clients(server, bound, Limits())
    except* ValueError as errors:
        raise errors.exceptions[0] from None


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--port", "70000"], "`port` is 70000"),
        (["--host", "no.such.host.invalid"], "`host` 'no.such.host.invalid'"),
        (["--host", "192.0.2.1"], "`host` '192.0.2.1'"),
        (["--max-clients", "0"], "`clients` is 0"),
        (["--image-keys", "primary"], "`image_keys` has 'primary'"),
        (["--port", "0"], "config.json"),
    ],
)
def test_the_command_names_what_is_wrong(tmp_path, capsys, arguments, problem):
    assert cli.main(["serve", str(tmp_path), *arguments]) == 2
    assert problem in capsys.readouterr().err


def test_image_keys_are_split():
    assert parse_image_keys(["a=b", "c=d=e"]) == {"a": "b", "c": "d=e"}
    with pytest.raises(ValueError, match="'a' twice"):
        parse_image_keys(["a=b", "a=c"])


def test_a_message_has_the_sequence_number_of_its_question(server):
    async def play(url: str) -> list[Message]:
        start = pack_message(Message(MessageType.EPISODE_START, {}))
        async with websockets.connect(url) as connection:
            await connection.send(start)
            answers = []
            for seq, sent in ((7, observation()), (8, {})):
                await connection.send(pack_message(Message(MessageType.OBSERVATION, sent, seq)))
                answers.append(unpack_message(await connection.recv()))
            return answers

    with running(server) as url:
        action, error = run_client(play, url)
    assert (action.type, action.seq) == (MessageType.ACTION, 7)
    # The rest of the chunk does not hide a mistake.
    assert (error.type, error.seq) == (MessageType.ERROR, 8)
