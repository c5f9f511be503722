"""`lara serve`, with the harness's own client on the loopback."""

import asyncio
import json
import socket
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
import torch
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.utils import prepare_observation_for_inference
from support.policies import make_policy

from lerobot_lara.cli import main

pytest.importorskip("vla_eval", reason="needs vla-eval (extra serve)")
import websockets
from vla_eval.connection import Connection
from vla_eval.protocol.messages import MessageType, unpack_message

from lerobot_lara.serving.model_server import PolicyModelServer
from lerobot_lara.serving.websocket import serve_policy

CAMERAS = ("observation.images.front", "observation.images.wrist")
STEPS = 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "policy"
    policy = make_policy(cameras=CAMERAS, n_action_steps=STEPS, device="cpu")
    policy.save_pretrained(folder)
    stats = {
        "observation.state": {"mean": torch.tensor([0.1, 0.2, 0.3]), "std": torch.ones(3) * 2},
        "action": {"mean": torch.zeros(4), "std": torch.ones(4) * 3},
    }
    for pipeline in make_pre_post_processors(policy.config, dataset_stats=stats):
        pipeline.save_pretrained(folder)
    return folder


def observation(number=0, **changes):
    generator = np.random.default_rng(number)
    return {
        "images": {
            name: generator.integers(256, size=(32, 32, 3), dtype=np.uint8) for name in ("front", "wrist")
        },
        "states": generator.normal(size=3).astype(np.float32),
        "task_description": "push the door",
        **changes,
    }


def served(server: PolicyModelServer, play: Callable[[int], Awaitable[Any]], **limits: Any) -> Any:
    """Serves on a free port while `play(port)` runs; returns what it returns."""

    async def run() -> Any:
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(serve_policy(server, port=0, started=ready.set_result, **limits))
        try:
            return await asyncio.wait_for(play(await asyncio.wait_for(ready, 30)), 120)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    return asyncio.run(run())


async def connect(port: int) -> Connection:
    client = Connection(f"ws://127.0.0.1:{port}", timeout=60)
    await client.connect()
    return client


async def ask(client: Connection, payload: dict[str, Any]) -> dict[str, Any]:
    """Sends an observation; returns the payload of the answer."""
    await client.send(MessageType.OBSERVATION, payload)
    return (await client.recv(timeout=60)).payload


def in_process(checkpoint, seed, observations):
    """The actions of the policy in this process, without a server."""
    from lerobot_lara.dit.modeling_lara_dit import LaraDiTPolicy

    policy = LaraDiTPolicy.from_pretrained(checkpoint)
    policy.eval()
    preprocess, postprocess = make_pre_post_processors(policy.config, pretrained_path=str(checkpoint))
    torch.manual_seed(seed)
    actions = []
    for number, obs in enumerate(observations):
        if number % STEPS == 0:
            frame = {f"observation.images.{name}": image for name, image in obs["images"].items()}
            frame["observation.state"] = obs["states"]
            batch = prepare_observation_for_inference(
                frame, torch.device("cpu"), task=obs["task_description"]
            )
            with torch.inference_mode():
                chunk = postprocess(policy.predict_action_chunk(preprocess(batch)))[0, :STEPS].numpy()
        actions.append(chunk[number % STEPS])
    return np.stack(actions)


def test_chunks_equal_those_of_the_policy_in_this_process_bit_for_bit(checkpoint):
    server = PolicyModelServer(str(checkpoint), seed=5)
    observations = [observation(number) for number in range(2 * STEPS + 1)]

    async def play(port):
        client = await connect(port)
        await client.start_episode({})
        answers = [(await ask(client, obs))["actions"] for obs in observations]
        await client.close()
        return answers

    np.testing.assert_array_equal(np.stack(served(server, play)), in_process(checkpoint, 5, observations))


def test_clients_do_not_disturb_each_other(checkpoint):
    """Two episodes in turns, one of which ends early, equal the same episodes one after the other."""
    observations = [[observation(10 * client + number) for number in range(6)] for client in range(2)]

    async def play(port):
        clients = [await connect(port) for _ in range(2)]
        for seed, client in enumerate(clients):
            await client.start_episode({"seed": seed})
        answers: list[list[np.ndarray]] = [[], []]
        for number in range(6):
            for index, client in enumerate(clients):
                if index == 0 and number == 3:
                    await client.close()  # in the middle of its episode
                if index == 1 or number < 3:
                    answers[index].append((await ask(client, observations[index][number]))["actions"])
        return answers

    first, second = served(PolicyModelServer(str(checkpoint)), play)
    np.testing.assert_array_equal(np.stack(first), in_process(checkpoint, 0, observations[0])[:3])
    np.testing.assert_array_equal(np.stack(second), in_process(checkpoint, 1, observations[1]))


def test_clients_that_ask_at_once_are_computed_together(checkpoint, monkeypatch):
    server = PolicyModelServer(str(checkpoint), max_batch_size=3, max_wait_time=2.0)
    sizes = []
    predict = server._policy.predict_action_chunk

    def counting(batch, **kwargs):
        sizes.append(len(batch["observation.state"]))
        # The same noise for each, so that the answers can be compared.
        torch.manual_seed(0)
        return predict(batch, **kwargs)

    server._policy.predict_action_chunk = counting

    async def play(port):
        clients = [await connect(port) for _ in range(3)]
        for client in clients:
            await client.start_episode({})
        return await asyncio.gather(
            *(ask(client, observation(index)) for index, client in enumerate(clients))
        )

    answers = [answer["actions"] for answer in served(server, play)]
    assert max(sizes) > 1
    assert not np.allclose(answers[0], answers[1]), "each gets the answer to its own observation"


def test_a_new_instruction_drops_the_rest_of_the_chunk(checkpoint):
    server = PolicyModelServer(str(checkpoint))
    calls = []
    predict = server._policy.predict_action_chunk
    server._policy.predict_action_chunk = lambda batch: calls.append(1) or predict(batch)

    async def play(port):
        client = await connect(port)
        await client.start_episode({})
        counts = []
        for task in ("open", "open", "close", "close"):
            await ask(client, observation(task_description=task))
            counts.append(len(calls))
        return counts

    assert served(server, play) == [1, 1, 2, 2]


def test_metadata_tells_what_to_send(checkpoint):
    server = PolicyModelServer(str(checkpoint))

    async def play(port):
        client = await connect(port)
        url = f"http://127.0.0.1:{port}"
        read = lambda path: json.loads(urllib.request.urlopen(url + path).read())  # noqa: E731, S310
        return client.server_info, *[await asyncio.to_thread(read, path) for path in ("/metadata", "/health")]

    hello, metadata, health = served(server, play)
    assert metadata == {
        "policy": "lara_dit",
        "checkpoint": "policy",
        "cameras": {name: [3, 32, 32] for name in CAMERAS},
        "state": 3,
        "action": 4,
        "n_action_steps": STEPS,
        "chunk_size": 8,
        "robot": "as_is",
    }
    assert health == {"status": "ok"}
    assert hello["observation_params"] == {"send_state": True, "send_wrist_image": True}
    assert hello["action_spec"]["actions"]["dims"] == 4


BAD = {
    "camera": ({"images": {"front": np.zeros((32, 32, 3), np.uint8)}}, "needs ['observation.images.wrist']"),
    "float": (
        {"images": {name: np.zeros((32, 32, 3), np.float32) for name in ("front", "wrist")}},
        "float32 (32, 32, 3), and must be uint8",
    ),
    "no images": ({"images": 3}, "it has the cameras none"),
    "width": ({"states": np.zeros(7)}, "`states` has the shape (7,), and must have 3 numbers"),
    "text": ({"states": "zero"}, "`states` is str, and must be 3 numbers"),
    "missing": ({"states": None}, "it has no `states`"),
    "nan": ({"states": np.array([0, np.nan, 0])}, "`states` is not finite"),
}


def test_bad_observations_are_answered_with_an_error_and_the_server_lives_on(checkpoint):
    async def play(port):
        client = await connect(port)
        unbegun = await ask(client, observation())
        await client.start_episode({})
        errors = {
            name: (await ask(client, observation(**changes)))["error"] for name, (changes, _) in BAD.items()
        }
        both = await ask(client, observation(images={}, states=np.zeros(2)))
        return unbegun, errors, both, await ask(client, observation())

    unbegun, errors, both, good = served(PolicyModelServer(str(checkpoint)), play)
    assert "Send EPISODE_START" in unbegun["error"]
    for name, (_, message) in BAD.items():
        assert message in errors[name], (name, errors[name])
    assert "observation.images.front" in both["error"] and "shape (2,)" in both["error"]
    assert good["actions"].shape == (4,)


def test_bytes_that_are_no_message_are_answered_with_an_error_on_the_same_connection(checkpoint):
    import msgpack

    bad = [
        b"\xc1garbage",
        "text",
        msgpack.packb([1, 2]),
        msgpack.packb({"type": "observation", "payload": {}}),
        msgpack.packb({"type": "launch", "payload": {}, "seq": 1, "timestamp": 0.0}),
        msgpack.packb({"type": "observation", "payload": [1], "seq": 1, "timestamp": 0.0}),
        msgpack.packb({"type": "observation", "payload": {}, "seq": "x", "timestamp": 0.0}),
        msgpack.packb({"type": "episode_start", "payload": {"recording": 3}, "seq": 1, "timestamp": 0.0}),
        msgpack.packb({"type": "episode_start", "payload": {"seed": -1}, "seq": 1, "timestamp": 0.0}),
    ]

    async def play(port):
        async with websockets.connect(f"ws://127.0.0.1:{port}") as raw:
            errors = []
            for data in bad:
                await raw.send(data)
                errors.append(unpack_message(await raw.recv()))
        client = await connect(port)
        await client.start_episode({})
        return errors, await ask(client, observation())

    errors, good = served(PolicyModelServer(str(checkpoint)), play)
    assert [error.type for error in errors] == [MessageType.ERROR] * len(bad)
    assert "`seed` is -1" in errors[-1].payload["error"]
    assert good["actions"].shape == (4,)


def test_clients_that_send_too_much_or_nothing_are_cut_off(checkpoint):
    async def play(port):
        async with websockets.connect(f"ws://127.0.0.1:{port}") as large:
            await large.send(b"\0" * 200_000)
            with pytest.raises(websockets.ConnectionClosed) as too_large:
                await large.recv()
        async with websockets.connect(f"ws://127.0.0.1:{port}") as silent:
            with pytest.raises(websockets.ConnectionClosed) as too_silent:
                await silent.recv()
        return too_large.value.rcvd.code, too_silent.value.rcvd.reason

    server = PolicyModelServer(str(checkpoint))
    assert served(server, play, largest_message=100_000, silence=0.5) == (1009, "no message for 0.5 s")


def test_more_clients_than_allowed_are_turned_away(checkpoint):
    async def play(port):
        first = await connect(port)
        async with websockets.connect(f"ws://127.0.0.1:{port}") as second:
            with pytest.raises(websockets.ConnectionClosed) as refused:
                await second.recv()
        await first.close()
        await asyncio.sleep(0.2)
        await (await connect(port)).close()
        return refused.value.rcvd.reason

    server = PolicyModelServer(str(checkpoint))
    assert served(server, play, max_clients=1) == "there are 1 clients already"


def test_actions_that_are_not_finite_are_an_error(checkpoint):
    server = PolicyModelServer(str(checkpoint))
    server._policy.predict_action_chunk = lambda batch: torch.full((1, 8, 4), torch.nan)

    async def play(port):
        client = await connect(port)
        await client.start_episode({})
        return await ask(client, observation())

    assert "actions are not finite" in served(server, play)["error"]


def test_two_servers_on_one_port_are_an_error(checkpoint, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for arguments in (["serve", str(checkpoint)], ["serve", "--protocol=lerobot"]):
            assert main([*arguments, f"--port={port}"]) == 2
            assert f"`port` is {port}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"image_keys": {"agentview": "front"}},
            "`image_keys` names observation.images.front; the policy has",
        ),
        ({"image_keys": {"a": "front", "b": "side"}}, "observation.images.side; the policy has"),
        ({"robot": "panda"}, "`robot` is 'panda'; it must be one of as_is, simpler_widowx"),
        ({"max_batch_size": 0}, "`max_batch_size` is 0"),
    ],
)
def test_bad_settings_are_refused(checkpoint, options, message):
    with pytest.raises(ValueError) as error:
        PolicyModelServer(str(checkpoint), **options)
    assert message in str(error.value)


def test_cameras_are_mapped_by_name_and_by_flag(checkpoint):
    server = PolicyModelServer(str(checkpoint), image_keys={"agentview": "front", "hand": CAMERAS[1]})
    image = np.zeros((32, 32, 3), np.uint8)
    images = {"hand": image, "agentview": image, "depth": image}
    assert server._camera_map(images) == {"agentview": CAMERAS[0], "hand": CAMERAS[1]}
    assert PolicyModelServer(str(checkpoint))._camera_map({"wrist": image, CAMERAS[0]: image}) == {
        "wrist": CAMERAS[1],
        CAMERAS[0]: CAMERAS[0],
    }


def test_lerobots_own_server_takes_this_packages_policies():
    from lerobot.async_inference import policy_server

    from lerobot_lara.serving.async_server import allow_all_policies

    before = list(policy_server.SUPPORTED_POLICIES)
    try:
        allow_all_policies()
        allow_all_policies()
        known = policy_server.SUPPORTED_POLICIES
        assert {"lara", "lara_dit", "moto_gpt", "groot_n16", "act"} <= set(known)
        assert len(known) == len(set(known)) and known[: len(before)] == before
    finally:
        policy_server.SUPPORTED_POLICIES[:] = before
