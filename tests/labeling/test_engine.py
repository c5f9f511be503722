"""One pass over an episode: short episodes, any window, and no frame that is kept longer than it is needed."""

import numpy as np
import pytest
import torch
from support.policies import TINY_LAM

from lerobot_lara.labeling.engine import computing_in, label_episode
from lerobot_lara.lam.latent_action_model import LatentActionModel

GAP = TINY_LAM["frame_gap"]
STILL = np.zeros((1, 2), np.int64)


@pytest.fixture(scope="module", params=[{}, {"quantizer": "fsq", "fsq_levels": (3, 3, 3)}])
def lam(request):
    torch.manual_seed(0)
    return LatentActionModel.from_config(**TINY_LAM | request.param).eval()


def frames_of(length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (length, 3, 32, 32), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("length", [1, GAP, GAP + 1, GAP + 2, 3 * GAP])
@pytest.mark.parametrize("window", [1, GAP, GAP + 1, 100])
def test_each_pair_of_an_episode_has_its_row(lam, length, window):
    frames = frames_of(length)
    labels = label_episode(lam, frames.split(window), length=length, shifts=STILL, no_motion=True)
    pairs = max(0, length - GAP)
    assert labels.valid.tolist() == [True] * pairs + [False] * (length - pairs)
    assert labels.latent_action.shape == (length, 1, 6) and labels.no_motion.shape == (length, 1, 6)
    assert not labels.latent_action[pairs:].any() and not labels.no_motion[pairs:].any()
    if pairs:
        images = frames.float() / 255
        with torch.no_grad():
            moved = lam.encode(torch.stack([images[:-GAP], images[GAP:]], dim=1))
            still = lam.encode(torch.stack([images[:-GAP]] * 2, dim=1))
        for found, output in ((labels.latent_action, moved), (labels.no_motion, still)):
            wanted = output.latent_action.flatten(1).numpy()
            np.testing.assert_allclose(found[:pairs, 0], wanted, atol=1e-5)
    if lam.quantizer.codebook_size is None:
        assert labels.code_indices is None
    else:
        assert (labels.code_indices[pairs:] == -1).all()
        if pairs:
            assert (labels.code_indices[:pairs, 0] == moved.code_indices.numpy()).all()


def test_an_episode_without_a_pair_is_not_decoded(lam):
    def refuse():
        raise AssertionError("decoded")
        yield

    labels = label_episode(lam, refuse(), length=GAP, shifts=STILL, no_motion=False)
    assert not labels.valid.any() and labels.no_motion is None


@pytest.mark.parametrize("window", [1, 3, 8, 16])
def test_only_the_frames_of_a_gap_wait_for_their_partner(lam, window, monkeypatch):
    """However long the episode is."""
    most = []
    encode = lam.encode
    monkeypatch.setattr(
        lam,
        "encode",
        lambda frames, frame_tokens: (
            most.append(len(frame_tokens[0])) or encode(frames, frame_tokens=frame_tokens)
        ),
    )
    label_episode(lam, frames_of(40).split(window), length=40, shifts=STILL, no_motion=False)
    assert max(most) <= window and sum(most) == 40 - GAP


def test_versions_stay_apart(lam):
    """Each version is shifted alike over the whole episode, whatever the windows."""
    frames, shifts = frames_of(12), np.array([[0, 0], [2, -1], [2, -1], [-3, 0]])
    labels = label_episode(lam, frames.split(5), length=12, shifts=shifts, no_motion=False)
    latents = labels.latent_action[: 12 - GAP]
    np.testing.assert_array_equal(latents[:, 1], latents[:, 2])
    assert np.abs(latents[:, 0] - latents[:, 1]).max() > 1e-3
    alone = label_episode(lam, frames.split(5), length=12, shifts=shifts[3:], no_motion=False)
    np.testing.assert_allclose(latents[:, 3], alone.latent_action[: 12 - GAP, 0], atol=1e-6)


@pytest.mark.parametrize("what", ["latent_action", "no_motion"])
def test_values_that_are_not_finite_are_refused(what, monkeypatch):
    torch.manual_seed(0)
    lam = LatentActionModel.from_config(**TINY_LAM).eval()
    forward = lam.inverse_dynamics.forward

    def broken(current, future):
        still = torch.equal(current, future)
        return forward(current, future) + (torch.inf if still == (what == "no_motion") else 0)

    monkeypatch.setattr(lam.inverse_dynamics, "forward", broken)
    with pytest.raises(ValueError, match="puts out values that are not finite"):
        label_episode(lam, frames_of(8).split(4), length=8, shifts=STILL, no_motion=True)


@pytest.mark.filterwarnings("ignore:User provided device_type of 'cuda'")
@pytest.mark.parametrize(("precision", "expected"), [("float32", "highest"), ("tf32", "high")])
def test_matrix_products_are_as_precise_as_asked_and_then_as_before(precision, expected):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(KeyError), computing_in(precision, torch.device("cuda")):
            assert torch.get_float32_matmul_precision() == expected
            raise KeyError
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
