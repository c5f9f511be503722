"""What a policy reads from a batch: order, padding, masks and checks."""

import pytest
import torch
from lerobot.utils import constants

from lerobot_lara.batch import keys
from lerobot_lara.batch.checks import Periodic
from lerobot_lara.batch.observation import ActionChunk, BatchLayout, Observation

FRONT, WRIST = "observation.images.front", "observation.images.wrist"
LAYOUT = BatchLayout(
    cameras=(FRONT, WRIST), state_dim=5, action_dim=6, embodiments=("arm", "hand"), embodiment_id=1
)


def make_batch(**changes):
    generator = torch.Generator().manual_seed(0)
    batch = {
        WRIST: torch.rand(2, 3, 8, 6, generator=generator),
        FRONT: torch.rand(2, 3, 4, 4, generator=generator),
        "observation.state": torch.randn(2, 3, generator=generator),
        "action": torch.randn(2, 7, 4, generator=generator),
    }
    return {key: value for key, value in (batch | changes).items() if value is not None}


def test_keys_are_lerobots():
    assert (keys.ACTION, keys.STATE) == (constants.ACTION, constants.OBS_STATE)
    assert keys.LANGUAGE_TOKENS == constants.OBS_LANGUAGE_TOKENS
    assert keys.LANGUAGE_MASK == constants.OBS_LANGUAGE_ATTENTION_MASK


def test_a_plain_batch():
    batch = make_batch()
    observation = Observation.from_batch(batch, LAYOUT)
    assert observation.images[0] is batch[FRONT] and observation.images[1] is batch[WRIST]
    assert observation.image_valid is None and observation.dataset_index is None
    assert torch.equal(observation.state, torch.nn.functional.pad(batch["observation.state"], (0, 2)))
    assert observation.state_valid.tolist() == [True, True]
    assert observation.embodiment_id.tolist() == [1, 1]
    assert observation.image_tokens == [None, None] and observation.prompt == {}
    chunk = ActionChunk.from_batch(batch, LAYOUT)
    assert torch.equal(chunk.actions[..., :4], batch["action"]) and not chunk.actions[..., 4:].any()
    assert chunk.labeled.tolist() == [True, True]
    assert chunk.valid.expand(2, 7, 6)[..., :4].all() and not chunk.valid.expand(2, 7, 6)[..., 4:].any()


def test_a_batch_of_a_mixture():
    batch = make_batch(
        **{
            f"{WRIST}_is_pad": torch.tensor([[False, True], [True, True]]),
            "observation.state_is_pad": torch.tensor([True, False]),
            "observation.state_extra": torch.ones(2, 2),
            "observation.action_extra": torch.ones(2, 7, 1),
            "action_is_pad": torch.tensor([[False] * 5 + [True] * 2, [True] * 7]),
            "action_dim_is_pad": torch.tensor([[False] * 5, [False] * 3 + [True] * 2]),
            "observation.embodiment_id": torch.tensor([[1], [0]]),
            "observation.dataset_index": torch.tensor([[2], [0]]),
            "observation.language.tokens": torch.ones(2, 9, dtype=torch.long),
            "observation.language.prompt.token_type_ids": torch.zeros(2, 9),
            f"image_tokens.{FRONT}": torch.ones(2, 4, 8),
        }
    )
    observation = Observation.from_batch(batch, LAYOUT)
    assert observation.image_valid.tolist() == [[True, True], [True, False]]
    assert observation.state_valid.tolist() == [False, True]
    assert (observation.state[:, 3:] == 1).all()
    assert observation.embodiment_id.tolist() == [1, 0] and observation.dataset_index.tolist() == [2, 0]
    assert observation.language_tokens.shape == (2, 9) and set(observation.prompt) == {"token_type_ids"}
    assert observation.image_tokens[0].shape == (2, 4, 8) and observation.image_tokens[1] is None
    chunk = ActionChunk.from_batch(batch, LAYOUT)
    assert chunk.labeled.tolist() == [True, False]
    assert (chunk.actions[..., 4] == 1).all()
    assert chunk.valid[0].sum() == 5 * 5 and not chunk.valid[1].any()
    assert chunk.dim_valid[:, 0].tolist() == [[True] * 5 + [False], [True] * 3 + [False] * 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({WRIST: None}, rf"lacks camera \['{WRIST}'\].*it has \['{FRONT}'\].*--rename_map"),
        ({"observation.state": None}, "lacks `observation.state`"),
        ({"observation.state": torch.zeros(2, 6)}, "6 state dimensions.*`max_state_dim` leaves room for 5"),
        ({"observation.state": torch.zeros(1, 3)}, r"`observation.state` has 1 rows; it must have 2"),
        (
            {"observation.language.tokens": torch.zeros(1, 4, dtype=torch.long)},
            "has 1 rows; it must have 2, one for each image. Pass `task` as a list with one instruction for each",
        ),
        ({FRONT: torch.zeros(2, 1, 4, 4)}, "not RGB"),
        ({FRONT: torch.zeros(2, 3, 4, 4, dtype=torch.uint8)}, "uint8.*Divide"),
        ({FRONT: torch.full((2, 3, 4, 4), 2.0)}, r"spans \[2, 2\]"),
        ({FRONT: torch.full((2, 3, 4, 4), float("nan"))}, r"spans \[nan"),
        (
            {"observation.embodiment_id": torch.tensor([0, 2])},
            r"`observation.embodiment_id` \[0, 2\] is outside \[0, 2\).*\['arm', 'hand'\]",
        ),
    ],
)
def test_bad_batches_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Observation.from_batch(make_batch(**changes), LAYOUT)


def test_values_are_looked_at_when_asked_only():
    batch = make_batch(
        **{FRONT: torch.full((2, 3, 4, 4), 2.0), "observation.embodiment_id": torch.tensor([0, 2])}
    )
    Observation.from_batch(batch, LAYOUT, check_values=False)


def test_more_action_dimensions_than_there_is_room_for_are_refused():
    with pytest.raises(ValueError, match=r"7 action dimensions.*`max_action_dim` leaves room for 6"):
        ActionChunk.from_batch(make_batch(**{"observation.action_extra": torch.zeros(2, 7, 3)}), LAYOUT)


def test_a_periodic_check_is_due_at_first_and_every_nth_time():
    check = Periodic(every=3)
    assert [check.due() for _ in range(7)] == [True, False, False, True, False, False, True]
