"""The network: what enters it in which order, what its outputs depend on, and what they do not."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lerobot_lara.moto_gpt.model import Conditions

EMBEDDINGS = {"step_embeddings": True, "latent_position_embeddings": True}


def run(model, conditions, latent_ids, **options):
    with torch.no_grad():
        return model(conditions, latent_ids, **options)


def inputs_of_first_block(model, *args):
    """What the backbone is given, after everything that is added to it."""
    seen = []
    handle = model.backbone.h[0].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    run(model, *args)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("embeddings", [{}, EMBEDDINGS])
def test_sequence(make_model, conditions, latent_ids, embeddings):
    """Order and sums of all tokens, one layer norm over them, and no positions."""
    m = make_model(num_patches=3, **embeddings)
    conditioned = [
        m.embed_language(conditions.language),
        m.embed_patch(conditions.patches) + m.patch_positions,
        m.embed_summary(conditions.summary)[:, None],
        m.embed_state(conditions.state)[:, None],
    ]
    tokens = [part + m.embed_condition for part in conditioned]
    for step in range(2):
        block = [m.latent_query.expand(2, -1), *m.embed_latent(latent_ids[:, step]).unbind(1)]
        if embeddings:
            block = [token + m.latent_position_embedding[i] for i, token in enumerate(block)]
        block += [(m.action_query + m.chunk_queries[2 * step + i]).expand(2, -1) for i in range(2)]
        if embeddings:
            block = [token + m.step_embedding[step] for token in block]
        tokens += [token[:, None] for token in block]
    norm = m.embed_norm
    expected = F.layer_norm(torch.cat(tokens, dim=1), (16,), norm.weight, norm.bias, eps=1e-5)
    found = inputs_of_first_block(m, conditions, latent_ids)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_logits_of_a_token_depend_on_those_before_it_only(make_model, conditions, latent_ids):
    model = make_model()
    logits, _ = run(model, conditions, latent_ids)
    for step in range(2):
        for token in range(3):
            ids = latent_ids.clone()
            ids[:, step, token] = (ids[:, step, token] + 1) % 5
            differs = (run(model, conditions, ids)[0] != logits).any(-1).all(0).flatten()
            later = torch.arange(6) > 3 * step + token
            assert torch.equal(differs, later), (step, token)


def test_the_first_token_is_predicted_by_the_query(make_model, conditions, latent_ids):
    model = make_model()
    logits, _ = run(model, conditions, latent_ids)
    with torch.no_grad():
        model.latent_query.add_(torch.randn(16))
    assert (run(model, conditions, latent_ids)[0] != logits).any(-1).all()


def test_an_action_does_not_see_the_other_actions(make_model, conditions, latent_ids):
    model = make_model()
    logits, actions = run(model, conditions, latent_ids)
    with torch.no_grad():
        model.chunk_queries[1].add_(torch.randn(16))
    moved_logits, moved = run(model, conditions, latent_ids)
    assert torch.equal(moved_logits, logits)
    assert (moved != actions).any(-1).all(0).tolist() == [[False, True], [False, False]]


def test_actions_do_not_see_a_step_that_is_hidden_but_later_latents_do(make_model, conditions, latent_ids):
    """The first step is hidden in the first sample, the second in the other."""
    model = make_model()
    visible = torch.tensor([[False, True], [True, False]])
    other = latent_ids.clone()
    other[:, 0] = (other[:, 0] + 1) % 5
    first, second = (run(model, conditions, ids, latent_visible=visible) for ids in (latent_ids, other))
    assert (first[0][:, 1] != second[0][:, 1]).any(-1).all()
    assert torch.equal(first[1][0, 0], second[1][0, 0]), "hidden, in the block that both see"
    assert (first[1][1] != second[1][1]).any(-1).all()


def test_a_hidden_step_hides_its_query(make_model, conditions, latent_ids):
    model = make_model(num_layers=1)
    hidden = torch.zeros(2, 2, dtype=torch.bool)
    _, actions = run(model, conditions, latent_ids, latent_visible=hidden)
    with torch.no_grad():
        model.latent_query.add_(torch.randn(16))
    assert torch.equal(run(model, conditions, latent_ids, latent_visible=hidden)[1], actions)
    assert not torch.equal(run(model, conditions, latent_ids)[1], actions)


def test_a_step_that_does_not_exist_is_seen_by_nobody(make_model, conditions, latent_ids):
    """Its tokens do not see one another either: each is predicted from its position and the conditions."""
    model = make_model()
    valid = torch.tensor([[True, True], [True, False]])
    other = latent_ids.clone()
    other[1, 1, 0] = (other[1, 1, 0] + 1) % 5
    first, second = (run(model, conditions, ids, latent_valid=valid) for ids in (latent_ids, other))
    differs = (first[0] != second[0]).any(-1)
    assert differs.nonzero().tolist() == [[1, 1, 1]], "the token that the changed one predicts"
    assert torch.equal(first[1], second[1])
    exists = (run(model, conditions, ids) for ids in (latent_ids, other))
    assert not torch.equal(*(actions for _, actions in exists))


def test_masks_that_are_not_given_hide_nothing(make_model, conditions, latent_ids):
    model = make_model(num_patches=3)
    everything = torch.ones(2, 2, dtype=torch.bool)
    given = replace(conditions, patch_mask=torch.ones(2, 3).bool(), state_mask=torch.ones(2).bool())
    expected = run(model, given, latent_ids, latent_valid=everything, latent_visible=everything)
    for found, same in zip(run(model, conditions, latent_ids), expected):
        assert torch.equal(found, same)


@pytest.mark.parametrize(
    ("name", "mask", "values"),
    [
        ("language", "language_mask", torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])),
        ("patches", "patch_mask", torch.tensor([[1, 1, 1], [0, 1, 1]])),
        ("state", "state_mask", torch.tensor([1, 0])),
    ],
)
def test_conditions_that_are_missing_do_not_matter(make_model, conditions, latent_ids, name, mask, values):
    model = make_model()
    conditions = replace(conditions, **{mask: values.bool()})
    feature = getattr(conditions, name)
    missing = (values == 0)[..., None]
    outputs = [
        run(model, replace(conditions, **{name: torch.where(missing, filling, feature)}), latent_ids)
        for filling in (0.0, 3.0)
    ]
    everywhere = run(model, replace(conditions, **{name: feature + 1}), latent_ids)
    for first, second, moved in zip(*outputs, everywhere):
        assert torch.equal(first, second) and not torch.equal(first, moved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_empty_instruction_is_no_instruction(make_model, conditions, latent_ids, dtype):
    """Its first token sees nothing; under autocast, masks are -inf."""
    model = make_model()
    empty = replace(conditions, language_mask=torch.zeros(2, 4, dtype=torch.bool))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        logits, actions = model(empty, latent_ids)
        other = run(model, replace(empty, language=empty.language + 1), latent_ids)
    assert torch.equal(logits, other[0]) and torch.equal(actions, other[1]) and logits.dtype == dtype
    (logits.float().square().mean() + actions.float().square().mean()).backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


def test_actions_are_a_linear_map_of_the_hidden_states(make_model):
    """The authors' MLP has no activation."""
    model = make_model(gripper_index=1)
    first, second = torch.randn(2, 3, 2, 6, 16)
    with torch.no_grad():
        offset = model._actions(torch.zeros(3, 2, 6, 16))
        apart = model._actions(first) + 2 * model._actions(second) - 2 * offset
        torch.testing.assert_close(model._actions(first + 2 * second), apart, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("gripper_index", [0, 1, 3, -1, -4])
def test_the_gripper_is_at_its_place(make_model, conditions, latent_ids, gripper_index):
    model = make_model(gripper_index=gripper_index)
    _, actions = run(model, conditions, latent_ids)
    with torch.no_grad():
        model.gripper_head.bias += 5
        model.arm_head.bias += torch.tensor([10.0, 20.0, 30.0])
    _, moved = run(model, conditions, latent_ids)
    by_dimension = [10.0, 20.0, 30.0]
    by_dimension.insert(gripper_index % 4, 5.0)
    torch.testing.assert_close(moved - actions, torch.tensor(by_dimension).expand(2, 2, 2, 4))
    assert make_model(gripper_index=None).gripper_head is None


def test_tables_of_their_own_embed_and_predict_by_position(make_model, conditions):
    model = make_model(codebook_per_token=True)
    same = torch.full((2, 2, 3), 2)
    found = model._step_tokens(same, 2)[:, 1:4]
    assert torch.equal(found, model.embed_latent.weight[[2, 7, 12]].expand(2, 3, 16))
    assert model.latent_head.out_features == model.embed_latent.num_embeddings == 15
    logits, _ = run(model, conditions, same)
    for token in range(3):
        changed = make_model(codebook_per_token=True)
        with torch.no_grad():
            changed.latent_head.weight[5 * token : 5 * token + 5] += 1
        differs = (run(changed, conditions, same)[0] != logits).any(-1).all(0).all(0)
        assert differs.tolist() == [index == token for index in range(3)]


def test_models_without_latents_or_actions(make_model, conditions, latent_ids):
    both = make_model()
    no_actions, no_latents = make_model(actions_per_step=0), make_model(predict_latents=False)
    for model in (no_actions, no_latents):
        model.load_state_dict({name: both.state_dict()[name] for name in model.state_dict()})
    logits, nothing = run(no_actions, conditions, latent_ids)
    assert nothing is None
    torch.testing.assert_close(logits, run(both, conditions, latent_ids)[0], atol=1e-5, rtol=1e-5)
    nothing, actions = run(no_latents, conditions, None)
    assert nothing is None
    hidden = torch.zeros(2, 2, dtype=torch.bool)
    _, alone = run(both, conditions, latent_ids, latent_visible=hidden)
    torch.testing.assert_close(actions, alone, atol=1e-5, rtol=1e-5)


def test_patches_alone_are_enough(make_model, conditions, latent_ids):
    model = make_model(language_width=None, summary_width=None, state_width=None)
    alone = Conditions(language=None, language_mask=None, patches=conditions.patches)
    logits, actions = run(model, alone, latent_ids)
    assert logits.shape == (2, 2, 3, 5) and actions.shape == (2, 2, 2, 4)


def test_it_is_the_same_in_training_but_for_dropout(make_model, conditions, latent_ids):
    """What is hidden from the actions is the caller's to draw."""
    model = make_model()
    for found, expected in zip(
        run(model.train(), conditions, latent_ids), run(model.eval(), conditions, latent_ids)
    ):
        assert torch.equal(found, expected)
    dropped = make_model(dropout=0.3)
    rates = [module.p for module in dropped.modules() if isinstance(module, nn.Dropout)]
    assert len(rates) == 1 + 3 * 2 and set(rates) == {0.3}


@pytest.mark.parametrize("options", [{}, EMBEDDINGS | {"codebook_per_token": True, "gripper_index": -1}])
def test_every_weight_is_used(make_model, conditions, latent_ids, options):
    model = make_model(num_patches=3, **options)
    logits, actions = model(conditions, latent_ids)
    (logits.square().mean() + actions.square().mean()).backward()
    assert not [
        name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()
    ]
    assert model.state_dict().keys() == dict(model.named_parameters()).keys()
    assert not [name for name in model.state_dict() if "wpe" in name or "wte" in name]


def test_gradient_checkpointing_changes_nothing(make_model, conditions, latent_ids):
    found = []
    for checkpointing in (False, True):
        model = make_model().train()
        if checkpointing:
            model.backbone.gradient_checkpointing_enable()
        logits, actions = model(conditions, latent_ids)
        (logits.square().mean() + actions.square().mean()).backward()
        found.append({name: value.grad for name, value in model.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


def test_it_runs_in_half_precision(make_model, conditions, latent_ids):
    names = ("language", "patches", "summary", "state")
    half = replace(conditions, **{name: getattr(conditions, name).bfloat16() for name in names})
    logits, actions = run(make_model().bfloat16(), half, latent_ids)
    assert logits.dtype == actions.dtype == torch.bfloat16
    assert torch.isfinite(logits).all() and torch.isfinite(actions).all()
