"""`lara serve` with the client of vla-eval itself: contents of the answers."""

import json
import shutil
from pathlib import Path

import anyio
import numpy as np
import pytest
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from support.policies import CAMERA
from support.served import observation, run_client, running, save_checkpoint
from vla_eval.connection import Connection

from lerobot_lara.serving.policy_server import PolicyServer

STEPS = 6  # of 4 per chunk


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_checkpoint(tmp_path_factory.mktemp("policy"))


async def play(url: str, observations: list[dict], episodes: int = 1) -> list[np.ndarray]:
    """Plays episodes; returns the actions of the last."""
    async with Connection(url, max_retries=1) as connection:
        for _ in range(episodes):
            await connection.start_episode({"task": {"name": "a task"}})
            actions = [(await connection.act(one))["actions"] for one in observations]
            await connection.end_episode({})
    return actions


def in_process(checkpoint: str, observations: list[dict], seed: int) -> np.ndarray:
    """What LeRobot's evaluation computes: its conversion of observations, processors and `select_action`."""
    from lerobot.envs.utils import preprocess_observation

    config = PreTrainedConfig.from_pretrained(checkpoint)
    policy = get_policy_class(config.type).from_pretrained(checkpoint)
    before, after = make_pre_post_processors(config, checkpoint)
    torch.manual_seed(seed)
    actions = []
    for one in observations:
        batch = preprocess_observation(
            {"pixels": one["images"]["image"][None], "agent_pos": one["states"][None]}
        )
        batch["task"] = [one["task_description"]]
        with torch.inference_mode():
            actions.append(after(policy.select_action(before(batch)))[0].numpy())
    return np.stack(actions)


def test_actions_are_those_of_lerobots_evaluation_bit_for_bit(checkpoint):
    observations = [observation(i) for i in range(STEPS)]
    with running(PolicyServer(checkpoint, seed=5)) as url:
        served = run_client(play, url, observations)
        third = run_client(play, url, observations, 3)
    assert np.stack(served).tobytes() == in_process(checkpoint, observations, seed=5).tobytes()
    # The third episode of a client draws the noise of another seed.
    assert np.stack(third).tobytes() == in_process(checkpoint, observations, seed=7).tobytes()


def test_an_episode_index_chooses_the_noise(checkpoint):
    async def episode(url: str, index: int) -> np.ndarray:
        async with Connection(url, max_retries=1) as connection:
            await connection.start_episode({"task": {"episode_idx": index}})
            return (await connection.act(observation()))["actions"]

    with running(PolicyServer(checkpoint, seed=5)) as url:
        played = [run_client(episode, url, index) for index in (4, 0, 4)]
    assert played[0].tobytes() == played[2].tobytes() != played[1].tobytes()
    assert played[0].tobytes() == in_process(checkpoint, [observation()], seed=9)[0].tobytes()


def test_clients_together_get_what_each_gets_alone(checkpoint):
    """Their chunks are computed in batches, and their rests of chunks are their own."""
    sizes = []

    class Counted(PolicyServer):
        def _predict_chunks(self, observations, contexts):
            sizes.append(len(observations))
            return super()._predict_chunks(observations, contexts)

    server = Counted(checkpoint, batch_size=3)
    server.max_wait_time = 0.5
    # The noise would differ with the place in the batch.
    predict = server._policy.predict_action_chunk
    server._policy.predict_action_chunk = lambda batch: predict(
        batch, noise=torch.zeros(len(batch[CAMERA]), 8, 4)
    )
    seen = [[observation(10 * client + i) for i in range(STEPS)] for client in range(3)]

    async def together(url: str) -> list[list[np.ndarray]]:
        results: list = [None] * 3

        async def one(client: int) -> None:
            results[client] = await play(url, seen[client])

        async with anyio.create_task_group() as tasks:
            for client in range(3):
                tasks.start_soon(one, client)
        return results

    with running(server) as url:
        alone = [run_client(play, url, one) for one in seen]
        assert set(sizes) == {1}
        shared = run_client(together, url)
    assert max(sizes) > 1
    np.testing.assert_allclose(shared, alone, rtol=0, atol=1e-5)
    assert not np.allclose(alone[0], alone[1], atol=1e-3)


def test_an_episode_and_an_instruction_begin_with_a_new_chunk(checkpoint):
    calls = []

    class Counted(PolicyServer):
        def _predict_chunks(self, observations, contexts):
            calls.append(observations[0]["task"])
            return super()._predict_chunks(observations, contexts)

    with running(Counted(checkpoint)) as url:
        run_client(play, url, [observation(0), observation(1)], 2)
        assert calls == ["go", "go"]
        calls.clear()
        run_client(play, url, [observation(task=task) for task in ("a", "a", "b", "b")])
        assert calls == ["a", "b"]


def test_hello_says_what_is_served(checkpoint):
    async def hello(url: str) -> dict:
        async with Connection(url, max_retries=1) as connection:
            return connection.server_info

    with running(PolicyServer(checkpoint, image_keys={"primary": CAMERA}, fps=5, n_action_steps=2)) as url:
        info = run_client(hello, url)
    assert info["metadata"] == {
        "policy_type": "lara_dit",
        "cameras": {CAMERA: {"names": ["primary"], "size": [32, 32]}},
        "state_dim": 3,
        "action_dim": 4,
        "chunk_size": 8,
        "n_action_steps": 2,
        "convention": None,
        "fps": 5,
    }
    assert info["observation_params"] == {"send_state": True}


def test_the_rate_is_that_of_the_policys_data_unless_another_is_told(checkpoint, tmp_path):
    rated = Path(shutil.copytree(checkpoint, tmp_path / "rated"))
    saved = json.loads((rated / "config.json").read_text())
    (rated / "config.json").write_text(json.dumps({**saved, "fps": 12.0}))
    assert PolicyServer(str(rated)).metadata()["fps"] == 12
    assert PolicyServer(str(rated), fps=5).metadata()["fps"] == 5
    assert PolicyServer(checkpoint).metadata()["fps"] is None


def test_images_of_any_size_are_fitted_when_asked(checkpoint):
    with running(PolicyServer(checkpoint, resize=True)) as url:
        (action,) = run_client(play, url, [observation(size=50)])
    assert action.shape == (4,)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"image_keys": {"primary": "observation.images.top"}},
            "`image_keys` does not fit.*observation.image",
        ),
        ({"image_keys": {"a": CAMERA, "b": CAMERA}}, "given more than once"),
        ({"n_action_steps": 9}, "`n_action_steps` is 9; the policy predicts 8"),
        ({"n_action_steps": 0}, "`n_action_steps` is 0"),
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"batch_size": 2, "seed": 1}, "`batch_size` is 2 with a `seed`"),
        ({"fps": 0.0}, "`fps` is 0"),
        ({"convention": "panda"}, "`convention` is 'panda'.*simpler_google"),
        (
            {"convention": "simpler_widowx"},
            r"has 3 numbers, and that of simpler_widowx has 8; its actions .*\(7,\)",
        ),
    ],
)
def test_arguments_that_do_not_fit_the_policy_are_refused(checkpoint, options, problem):
    with pytest.raises(ValueError, match=problem):
        PolicyServer(checkpoint, **options)


def test_a_folder_without_a_policy_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json"):
        PolicyServer(str(tmp_path))


def test_a_policy_without_actions_is_refused(tmp_path):
    with pytest.raises(ValueError, match="predicts no actions"):
        save = save_checkpoint(tmp_path, action=4)
        config = PreTrainedConfig.from_pretrained(save)
        config.output_features = {}
        config.save_pretrained(tmp_path)
        PolicyServer(save)


def test_any_policy_of_lerobot_is_served(tmp_path):
    from lerobot.configs import FeatureType, PolicyFeature
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy

    config = ACTConfig(
        device="cpu", push_to_hub=False, chunk_size=4, n_action_steps=4, dim_model=16, n_heads=2, dim_feedforward=16,
        n_encoder_layers=1, n_vae_encoder_layers=1, pretrained_backbone_weights=None,
        input_features={
            CAMERA: PolicyFeature(FeatureType.VISUAL, (3, 32, 32)),
            "observation.state": PolicyFeature(FeatureType.STATE, (3,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (4,))},
    )  # fmt: skip
    ACTPolicy(config).save_pretrained(tmp_path)
    for pipeline in make_pre_post_processors(config):
        pipeline.save_pretrained(tmp_path)
    observations = [observation(i) for i in range(STEPS)]
    with running(PolicyServer(str(tmp_path), seed=0)) as url:
        served = run_client(play, url, observations)
    assert np.stack(served).tobytes() == in_process(str(tmp_path), observations, seed=0).tobytes()
