"""Decoding one token after the other, against the same loop by hand."""

import pytest
import torch

from lerobot_lara.moto_gpt.decoding import decode_latents

OPTIONS = [
    {},
    {"actions_per_step": 0},
    {"codebook_per_token": True},
    {"step_embeddings": True, "latent_position_embeddings": True},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_greedy_codes_are_the_likeliest_given_those_before(make_model, conditions, options):
    model = make_model(**options)
    ids = decode_latents(model, conditions)
    expected = torch.full((2, 2, 3), 4)
    for step in range(2):
        for token in range(3):
            expected[:, step, token] = model(conditions, expected)[0][:, step, token].argmax(-1)
    assert ids.dtype == torch.int64 and torch.equal(ids, expected)
    assert torch.equal(model(conditions, ids)[0].argmax(-1), ids), "teacher forcing on its own codes"
    assert len(ids.unique()) > 1, "not the same code everywhere"


def test_codes_do_not_depend_on_the_actions(make_model, conditions):
    model = make_model()
    alone = make_model(actions_per_step=0)
    alone.load_state_dict({name: model.state_dict()[name] for name in alone.state_dict()})
    assert torch.equal(decode_latents(model, conditions), decode_latents(alone, conditions))


def test_every_token_takes_one_pass_without_gradients(make_model, conditions):
    model = make_model()
    passes = []
    model.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    decode_latents(model, conditions, steps=1)
    assert passes == [False] * 3
    decode_latents(model, conditions)
    assert passes == [False] * 9


def test_steps_that_are_not_decoded_stay_zero(make_model, conditions):
    model = make_model()
    everything, first = decode_latents(model, conditions), decode_latents(model, conditions, steps=1)
    assert torch.equal(first[:, 0], everything[:, 0])
    assert not first[:, 1].any() and everything[:, 1].any()


def test_codes_are_drawn_by_their_chances_at_that_temperature(make_model, conditions, monkeypatch):
    model = make_model()
    draw, drawn_from = torch.multinomial, []

    def keep(chances, *args, **kwargs):
        drawn_from.append(chances)
        return draw(chances, *args, **kwargs)

    monkeypatch.setattr(torch, "multinomial", keep)
    ids = decode_latents(model, conditions, temperature=0.7, generator=torch.Generator().manual_seed(0))
    chances = torch.stack(drawn_from, dim=1).unflatten(1, (2, 3))  # (B, T, L, V)
    with torch.no_grad():
        expected = (model(conditions, ids)[0] / 0.7).softmax(-1)
    torch.testing.assert_close(chances, expected, atol=1e-6, rtol=0)


def test_the_generator_draws(make_model, conditions):
    model = make_model()
    first, second, other = (
        decode_latents(model, conditions, temperature=50.0, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, second) and not torch.equal(first, other)
    cold = decode_latents(model, conditions, temperature=1e-4)
    assert torch.equal(cold, decode_latents(model, conditions))
