"""The mask, against the table of who sees whom read off one pair of tokens at a time."""

import itertools

import pytest
import torch

from lerobot_lara.moto_gpt.attention_mask import attention_mask

TRUE = torch.ones(1, 2, dtype=torch.bool)


def kinds_of_tokens(num_conditions, steps, block_tokens, actions_per_step):
    block = ["latent"] * block_tokens + ["action"] * actions_per_step
    return [("condition", token) for token in range(num_conditions)] + [
        (kind, step) for step in range(steps) for kind in block
    ]


def sees(row, column, condition_valid, latent_valid, latent_visible):
    (kind_of_row, _), (kind_of_column, index) = row, column
    if kind_of_column == "action":
        return False
    if kind_of_column == "condition":
        return bool(condition_valid[index])
    if kind_of_row == "action":
        return bool(latent_valid[index] and latent_visible[index])
    return bool(latent_valid[index])


@pytest.mark.parametrize(("block_tokens", "actions_per_step"), [(4, 3), (1, 1), (4, 0), (0, 3)])
def test_every_pair_is_that_of_the_table(block_tokens, actions_per_step):
    generator = torch.Generator().manual_seed(0)
    condition_valid, latent_valid, latent_visible = (
        torch.rand(6, size, generator=generator) < 0.6 for size in (5, 3, 3)
    )
    mask = attention_mask(
        condition_valid,
        latent_valid,
        latent_visible,
        block_tokens=block_tokens,
        actions_per_step=actions_per_step,
    )
    tokens = kinds_of_tokens(5, 3, block_tokens, actions_per_step)
    assert mask.shape == (6, 1, len(tokens), len(tokens)) and mask.dtype == torch.bool
    for sample in range(6):
        of_sample = (condition_valid[sample], latent_valid[sample], latent_visible[sample])
        for (i, row), (j, column) in itertools.product(enumerate(tokens), repeat=2):
            expected = j <= i and sees(row, column, *of_sample)
            assert mask[sample, 0, i, j] == expected, (sample, row, column)


def small_mask(condition_valid=TRUE, latent_valid=TRUE, latent_visible=TRUE):
    """Two conditions, then twice: query, one latent token, one action query."""
    given = (condition_valid, latent_valid, latent_visible)
    return attention_mask(*given, block_tokens=2, actions_per_step=1)[0, 0].int().tolist()


def test_a_small_mask():
    assert small_mask() == [
        [1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],  # an action query: not even itself
        [1, 1, 1, 1, 0, 1, 0, 0],
        [1, 1, 1, 1, 0, 1, 1, 0],
        [1, 1, 1, 1, 0, 1, 1, 0],
    ]


def test_a_hidden_step_is_hidden_from_actions_only_with_its_query():
    mask = small_mask(latent_visible=torch.tensor([[False, True]]))
    assert mask[4] == [1, 1, 0, 0, 0, 0, 0, 0]
    assert mask[7] == [1, 1, 0, 0, 0, 1, 1, 0]
    assert mask[6] == [1, 1, 1, 1, 0, 1, 1, 0]


def test_a_step_that_does_not_exist_is_seen_by_nobody_also_where_it_is_visible():
    mask = small_mask(latent_valid=torch.tensor([[True, False]]))
    assert [row[5:] for row in mask] == [[0, 0, 0]] * 8


def test_padding_is_seen_by_nobody():
    mask = small_mask(condition_valid=torch.tensor([[True, False]]))
    assert [row[1] for row in mask] == [0] * 8
