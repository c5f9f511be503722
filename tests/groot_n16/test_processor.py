"""The processors of `groot_n16`: prompts, encodings, padding, and the round trip through a checkpoint."""

from pathlib import Path

import pytest
import torch
from lerobot.policies import make_pre_post_processors
from support.tiny_groot_n16 import (
    ACTION_DIM,
    CAMERA,
    CHUNK,
    HORIZON,
    IMAGE_TOKEN_ID,
    fake_stats,
    tiny_config,
)

from lerobot_lara.groot_n16.normalization import decode_actions
from lerobot_lara.groot_n16.processor_groot_n16 import make_groot_n16_pre_post_processors
from lerobot_lara.groot_n16.prompt import PromptTokenizer, formalize


def fake_batch(size: int = 2, camera: str = CAMERA) -> dict:
    generator = torch.Generator().manual_seed(0)
    is_pad = torch.zeros(size, CHUNK, dtype=torch.bool)
    is_pad[0, 5:] = True
    return {
        camera: torch.rand(size, 3, 32, 32, generator=generator),
        "observation.state": torch.rand(size, 4, generator=generator),
        "action": torch.rand(size, CHUNK, ACTION_DIM, generator=generator),
        "action_is_pad": is_pad,
        "task": ["Push the red square!", "open drawer"][:size],
    }


def test_prompts_hold_the_text_and_then_the_images(tokenizer: str) -> None:
    prompt = PromptTokenizer(tokenizer, image_token_id=IMAGE_TOKEN_ID, formalize_language=True)
    tokens, mask = prompt(["Push the red square!", "open"], [4, 6])
    text = prompt._tokenizer.decode(tokens[0])
    # The last word is joined to what follows, and too much for this tokenizer.
    assert "<|im_start|> user push the red" in text
    assert text.index("red") < text.index("<img>") < text.index("</img>")
    assert text.count("<img>") == 2
    assert (tokens == IMAGE_TOKEN_ID).sum(dim=1).tolist() == [10, 10]
    # Padded on the left.
    assert mask[0].all() and not mask[1, 0] and mask[1, -1]
    assert formalize("Don't PUSH, the_cup!") == "dont push the_cup"


def test_batches_are_encoded_and_padded(tokenizer: str) -> None:
    pre, _ = make_groot_n16_pre_post_processors(tiny_config(tokenizer), fake_stats())
    raw = fake_batch()
    batch = pre(raw)
    assert torch.equal(batch[CAMERA], raw[CAMERA])
    torch.testing.assert_close(batch["observation.state"][:, :4], (raw["observation.state"] - 1) / 2)
    assert batch["observation.state"].shape == (2, 6) and not batch["observation.state"][:, 4:].any()
    assert batch["action"].shape == batch["action_mask"].shape == (2, HORIZON, 5)
    assert batch["action_mask"].sum(dim=(1, 2)).tolist() == [5 * ACTION_DIM, CHUNK * ACTION_DIM]
    assert not batch["action"][batch["action_mask"] == 0].any()
    assert batch["embodiment_id"].tolist() == [3, 3]
    decoded = decode_actions(
        batch["action"][1:, :CHUNK, :ACTION_DIM],
        batch["action_offset"][1:],
        batch["action_scale"][1:],
        batch["action_bound"],
    )
    torch.testing.assert_close(decoded, raw["action"][1:])


def test_percentiles_replace_the_range(tokenizer: str) -> None:
    pre, _ = make_groot_n16_pre_post_processors(tiny_config(tokenizer, use_percentiles=True), fake_stats())
    raw = fake_batch()
    torch.testing.assert_close(pre(raw)["observation.state"][:, :4], raw["observation.state"] - 0.5)


def test_a_robot_of_the_release_has_its_groups(tokenizer: str, release: Path) -> None:
    config = tiny_config(
        tokenizer, embodiment_tag="known_robot", base_model_path=str(release), cameras=[CAMERA]
    )
    pre, _ = make_groot_n16_pre_post_processors(config, fake_stats())
    raw = fake_batch()
    batch, state = pre(raw), raw["observation.state"]
    # Height by mean and deviation, two angles as sines and cosines, the gripper by percentiles.
    expected = torch.cat(
        [(state[:, :1] - 1) / 0.5, state[:, 1:3].sin(), state[:, 1:3].cos(), state[:, 3:] / 2], dim=1
    )
    torch.testing.assert_close(batch["observation.state"], expected)
    # Relative actions use their minimum and maximum, which grow along the chunk.
    steps = 0.4 * torch.arange(1, CHUNK + 1)[:, None]
    relative = ((raw["action"][:, :, 1:3] - state[:, None, 1:3]) / steps).clamp(-1, 1)
    torch.testing.assert_close(batch["action"][1, :CHUNK, 1:3], relative[1])
    torch.testing.assert_close(batch["action"][1, :CHUNK, 0], raw["action"][1, :, 0] / 2)
    torch.testing.assert_close(batch["action"][1, :CHUNK, 3], (raw["action"][1, :, 3] - 1) / 0.5)
    assert batch["embodiment_id"].tolist() == [1, 1]


def test_processors_of_a_checkpoint_do_the_same(tokenizer: str, tmp_path: Path) -> None:
    config = tiny_config(tokenizer)
    pre, post = make_groot_n16_pre_post_processors(config, fake_stats())
    pre.save_pretrained(tmp_path)
    post.save_pretrained(tmp_path)
    # As LeRobot's commands load them, with the overrides that its training always passes.
    again, post_again = make_pre_post_processors(
        config,
        str(tmp_path),
        preprocessor_overrides={
            "device_processor": {"device": "cpu"},
            "rename_observations_processor": {"rename_map": {}},
            "normalizer_processor": {"norm_map": config.normalization_mapping, "features": {}},
        },
    )
    expected, actual = pre(fake_batch()), again(fake_batch())
    assert expected.keys() == actual.keys()
    for key, value in expected.items():
        assert torch.equal(value, actual[key]) if isinstance(value, torch.Tensor) else value == actual[key]
    actions = torch.rand(2, ACTION_DIM)
    assert torch.equal(post(actions), actions) and torch.equal(post_again(actions), actions)


def test_robots_need_no_actions_to_act(tokenizer: str) -> None:
    pre, _ = make_groot_n16_pre_post_processors(tiny_config(tokenizer), fake_stats())
    one = {key: value[0] for key, value in fake_batch().items() if not key.startswith("action")}
    batch = pre(one)
    assert "action_mask" not in batch and batch["action_offset"].shape == (1, CHUNK, ACTION_DIM)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": None}, "has no `task`"),
        ({"task": ["push", "push", "push"]}, r"3 instructions \(`task`\); it must have 2"),
        ({CAMERA: None}, rf"lacks the cameras \['{CAMERA}'\].*--rename_map"),
        ({"observation.state": torch.zeros(2, 3)}, r"`observation.state` is \(2, 3\); it must have 4"),
        ({"observation.state": None}, "`observation.state` is nothing; it must have 4"),
        ({"action": torch.zeros(2, CHUNK, 3)}, "`action` is .* it must have 4 dimensions"),
    ],
)
def test_batches_that_do_not_fit_are_refused(tokenizer: str, change: dict, message: str) -> None:
    pre, _ = make_groot_n16_pre_post_processors(tiny_config(tokenizer), fake_stats())
    batch = {key: value for key, value in (fake_batch() | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        pre(batch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_token_id": 3}, r"`image_token_id` is 3; it must be \d+.*--policy.tokenizer"),
        ({"tokenizer": "no/such-tokenizer"}, "`tokenizer` is 'no/such-tokenizer', which cannot be loaded"),
        ({"relative_actions": True}, "`relative_actions` is true.*--policy.relative_actions=false"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tokenizer: str, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_groot_n16_pre_post_processors(tiny_config(**({"tokenizer": tokenizer} | change)), fake_stats())


def test_missing_statistics_are_refused(tokenizer: str) -> None:
    stats = fake_stats()
    del stats["action"]["q01"]
    config = tiny_config(tokenizer, use_percentiles=True)
    with pytest.raises(ValueError, match=r"lack q01 of `observation.state`.*'new_embodiment'"):
        make_groot_n16_pre_post_processors(config, stats)
    with pytest.raises(ValueError, match=r"lack min and max of `observation.state`"):
        make_groot_n16_pre_post_processors(tiny_config(tokenizer), None)
