import numpy as np
import pytest
from sklearn.metrics import r2_score as sklearn_r2

from lerobot_lara.evaluation.probe.action_probe import KINDS, ProbeInputs, probe_actions, r2_score, retrieve
from lerobot_lara.evaluation.probe.bootstrap import EpisodeBootstrap
from lerobot_lara.evaluation.probe.regression import held_out_predictions

EPISODES = np.repeat(np.arange(10), 20)


def score(kind: str, inputs: np.ndarray, outputs: np.ndarray, **variants: np.ndarray) -> dict[str, float]:
    predicted = held_out_predictions(kind, inputs, outputs, EPISODES, seed=0, variants=variants)
    return {name: sklearn_r2(outputs, values) for name, values in predicted.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_what_holds_in_one_episode_only_is_not_learned(kind: str) -> None:
    generator = np.random.default_rng(0)
    names_episode = np.eye(10)[EPISODES]
    outputs = generator.standard_normal((10, 2))[EPISODES]
    assert score(kind, names_episode, outputs)[""] < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_probes_find_what_is_there(kind: str) -> None:
    inputs = np.random.default_rng(0).standard_normal((200, 3))
    outputs = inputs @ np.array([[1.0, 0.5], [0.0, 1.0], [0.3, 0.0]])
    assert score(kind, inputs, outputs)[""] > 0.9


def test_only_the_mlp_bends() -> None:
    inputs = np.random.default_rng(0).uniform(-2, 2, (200, 1))
    outputs = np.abs(inputs) - 1
    assert score("ridge", inputs, outputs)[""] < 0.1
    assert score("mlp", inputs, outputs)[""] > 0.7


def test_variants_meet_the_probe_of_the_plain_inputs() -> None:
    inputs = np.random.default_rng(0).standard_normal((200, 2))
    found = score("ridge", inputs, inputs[:, :1], same=inputs, inverted=-inputs)
    assert found["same"] == found[""]
    assert found["inverted"] < -1


@pytest.mark.parametrize("kind", KINDS)
def test_many_useless_inputs_do_little_harm(kind: str) -> None:
    generator = np.random.default_rng(0)
    found = score(kind, generator.standard_normal((200, 100)), generator.standard_normal((200, 2)))
    assert -0.15 < found[""] < 0.05


def test_probes_are_reproducible_and_leave_torch_alone() -> None:
    import torch

    inputs = np.random.default_rng(0).standard_normal((200, 2))
    torch.manual_seed(3)
    first = held_out_predictions("mlp", inputs, inputs[:, :1], EPISODES, seed=0)[""]
    state = torch.initial_seed(), torch.rand(1).item()
    second = held_out_predictions("mlp", inputs, inputs[:, :1], EPISODES, seed=0)[""]
    torch.manual_seed(3)
    assert np.array_equal(first, second)
    assert state == (3, torch.rand(1).item())


def test_r2_is_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    outputs = generator.standard_normal((200, 4, 3)) * [1, 2, 3]
    predicted = outputs + generator.standard_normal((200, 4, 3))
    bootstrap = EpisodeBootstrap(EPISODES, seed=0)
    expected = sklearn_r2(
        outputs.reshape(200, -1), predicted.reshape(200, -1), multioutput="variance_weighted"
    )
    estimate = r2_score(outputs, np.square(predicted - outputs), bootstrap)
    assert estimate.value == pytest.approx(expected)
    assert estimate.low < expected < estimate.high


def test_retrieval_of_perfect_constant_and_equal_chunks() -> None:
    outputs = np.random.default_rng(0).standard_normal((300, 4))
    hits, chance = retrieve(outputs, outputs, batch_size=32, seed=0)
    assert hits.mean() == 1
    assert chance == 1 / 32
    hits, _ = retrieve(np.zeros_like(outputs), outputs, batch_size=32, seed=0)
    assert hits.mean() == pytest.approx(1 / 32, abs=0.03)
    # Where all chunks are equal, a hit is luck.
    hits, _ = retrieve(outputs, np.ones_like(outputs), batch_size=32, seed=0)
    assert hits.mean() == pytest.approx(1 / 32, abs=0.003)


def test_what_the_latent_says_without_motion_is_no_increment() -> None:
    generator = np.random.default_rng(0)
    seen = generator.standard_normal((200, 2))
    inputs = ProbeInputs(
        observation=generator.standard_normal((200, 3)),  # blind to what the latent sees in o_t
        no_motion=seen,
        latents=seen,
        shuffled=seen[::-1],
        feature_difference=np.zeros((200, 2)),
        quantized=None,
        distracted={},
    )
    actions = seen[:, None] + 0.1 * generator.standard_normal((200, 4, 2))
    bootstrap = EpisodeBootstrap(EPISODES, seed=0)
    found = probe_actions(inputs, actions, ["x", "y"], EPISODES, bootstrap=bootstrap, seed=0)
    assert found.r2["ridge"]["latent"].value > 0.9 > 0.1 > found.r2["ridge"]["o_t"].value
    assert (found.increment.value, found.increment.low) == (0, 0)
