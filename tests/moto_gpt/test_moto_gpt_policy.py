"""`moto_gpt` as a policy: its losses, what each kind of sample teaches, acting, and the codes that it takes."""

import pytest
import torch
from lerobot.configs import NormalizationMode
from support.policies import CAMERA, TINY_LAM, fake_batch, features

from lerobot_lara.batch.keys import LATENT_CODES, LATENT_CODES_IS_PAD
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.moto_gpt.configuration_moto_gpt import MotoGPTConfig
from lerobot_lara.moto_gpt.decoding import decode_latents
from lerobot_lara.moto_gpt.losses import action_losses, latent_loss
from lerobot_lara.moto_gpt.modeling_moto_gpt import MotoGPTPolicy

TINY_GPT = {
    "device": "cpu",
    "push_to_hub": False,
    "image_size": 32,
    "vision_encoder_width": 16,
    "text_encoder": None,
    "width": 16,
    "num_layers": 2,
    "num_heads": 2,
    "dropout": 0.0,
    "frame_gap": 4,
    "latent_steps": 2,
    "n_action_steps": 4,
}
SIZES = {"num_latent_tokens": 3, "codebook_size": 5, "tokenizer": "a" * 64}


def make_policy(state=3, action=4, **options):
    torch.manual_seed(0)
    return MotoGPTPolicy(MotoGPTConfig(**TINY_GPT | SIZES | features(state=state, action=action) | options))


def coded_batch(size=4, **changes):
    generator = torch.Generator().manual_seed(3)
    codes = {
        LATENT_CODES: torch.randint(5, (size, 2, 3), generator=generator),
        LATENT_CODES_IS_PAD: torch.zeros(size, 2, dtype=torch.bool),
    }
    return fake_batch(size) | codes | changes


def loss_of(policy, batch, seed=0):
    torch.manual_seed(seed)
    return policy(batch)


def test_loss_is_the_weighted_sum_of_its_logged_terms():
    policy = make_policy(latent_loss_weight=0.3, action_loss_weight=7, gripper_index=-1)
    loss, log = loss_of(policy, coded_batch())
    expected = 0.3 * log["latent_loss"] + 7 * log["arm_loss"] + log["gripper_loss"]
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert all(isinstance(value, float) for value in log.values())


def test_a_sample_without_actions_teaches_only_the_codes_and_the_reverse():
    policy = make_policy()
    no_actions = torch.ones(4, 8, dtype=torch.bool)
    loss, log = loss_of(policy, coded_batch(action_is_pad=no_actions))
    assert log["arm_loss"] == 0 and loss.item() == pytest.approx(log["latent_loss"])
    loss, log = loss_of(policy, coded_batch(**{LATENT_CODES_IS_PAD: torch.ones(4, 2, dtype=torch.bool)}))
    assert log["latent_loss"] == 0 and loss.item() == pytest.approx(log["arm_loss"])
    loss.backward()
    for name, parameter in policy.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_a_sample_without_actions_hides_its_state():
    policy = make_policy().eval()
    batch = coded_batch(action_is_pad=torch.ones(4, 8, dtype=torch.bool))
    first = loss_of(policy, batch)[1]["latent_loss"]
    batch["observation.state"] = batch["observation.state"] + 5
    assert loss_of(policy, batch)[1]["latent_loss"] == first
    batch["action_is_pad"] = torch.zeros(4, 8, dtype=torch.bool)
    assert loss_of(policy, batch)[1]["latent_loss"] != first


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_the_mask_decides_whether_actions_see_the_codes(probability):
    policy = make_policy(latent_mask_probability=probability).eval()
    batch = coded_batch()
    first = loss_of(policy, batch)[1]["arm_loss"]
    batch[LATENT_CODES] = (batch[LATENT_CODES] + 1) % 5
    assert (loss_of(policy, batch)[1]["arm_loss"] == first) == (probability == 1.0)


def test_half_of_the_steps_are_hidden_each_on_its_own(monkeypatch):
    policy = make_policy(latent_mask_probability=0.5)
    seen = []
    original = policy.model.forward

    def keep(*args, **kwargs):
        seen.append(kwargs["latent_visible"])
        return original(*args, **kwargs)

    monkeypatch.setattr(policy.model, "forward", keep)
    loss_of(policy, coded_batch(size=200))
    visible = seen[0].float()
    assert visible.mean().item() == pytest.approx(0.5, abs=0.1)
    assert (visible[:, 0] != visible[:, 1]).any()


def test_acting_runs_once_or_decodes_what_its_actions_need(monkeypatch):
    batch = {key: value for key, value in fake_batch(2).items() if "action" not in key}
    plain, decoding = make_policy(), make_policy(act_with_latents=True)
    calls = []
    for policy in (plain, decoding):
        forward = policy.model.forward
        monkeypatch.setattr(
            policy.model, "forward", lambda *a, forward=forward, **k: calls.append(1) or forward(*a, **k)
        )
    assert plain.predict_action_chunk(batch).shape == (2, 8, 4) and len(calls) == 1
    calls.clear()
    decoding.predict_action_chunk(batch)
    assert len(calls) == 3 + 1, "one step of three tokens, as four actions are executed of four per step"
    actions = [plain.select_action(batch) for _ in range(5)]
    assert len(plain._action_queue) == 3 and torch.equal(actions[0], actions[4])
    plain.reset()
    assert not plain._action_queue


def test_decoding_equals_teacher_forcing_on_its_own_codes():
    policy = make_policy().eval()
    conditions = policy._conditions(coded_batch())
    ids = decode_latents(policy.model, conditions)
    logits, _ = policy.model(conditions, ids)
    assert torch.equal(logits.argmax(-1), ids)
    first = decode_latents(policy.model, conditions, steps=1)
    assert torch.equal(first[:, 0], ids[:, 0]) and not first[:, 1].any()
    drawn = [
        decode_latents(
            policy.model, conditions, temperature=1.0, generator=torch.Generator().manual_seed(seed)
        )
        for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_codes_of_each_token_have_tables_of_their_own():
    policy = make_policy(codebook_per_token=True, latent_position_embeddings=False).eval()
    conditions = policy._conditions(coded_batch())
    same = torch.full((4, 2, 3), 2)
    embedded = policy.model._step_tokens(same, 4)
    shared = make_policy(latent_position_embeddings=False).eval().model._step_tokens(same, 4)
    assert torch.equal(shared[:, 1], shared[:, 2]) and not torch.equal(embedded[:, 1], embedded[:, 2])
    logits, _ = policy.model(conditions, same)
    with torch.no_grad():
        policy.model.latent_head.weight[5:10] += 1  # codes of the second token
    changed, _ = policy.model(conditions, same)
    differs = (logits != changed).any(-1)
    assert differs[:, :, 1].all() and not differs[:, :, [0, 2]].any()


def test_a_gripper_that_is_open_or_closed_acts_so():
    policy = make_policy(
        gripper_index=-1,
        gripper_loss="bce",
        normalization_mapping={"ACTION": NormalizationMode.MIN_MAX},
    )
    chunk = policy.predict_action_chunk({k: v for k, v in fake_batch(2).items() if "action" not in k})
    assert set(chunk[..., -1].unique().tolist()) <= {-1.0, 1.0}


def test_losses_of_the_gripper():
    predicted, actions = torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 2, 3)
    actions[..., 0], actions[..., 2] = 0.4, 1.0
    valid = torch.tensor([[[True, False]]])
    smooth = action_losses(predicted, actions, valid, gripper_index=2, gripper_loss="smooth_l1")
    assert smooth["arm_loss"].item() == pytest.approx(0.08 / 2)
    assert smooth["gripper_loss"].item() == pytest.approx(0.5)
    closed = action_losses(predicted, actions, valid, gripper_index=2, gripper_loss="bce")
    assert closed["gripper_loss"].item() == pytest.approx(0.6931, abs=1e-4)
    alone = action_losses(predicted, actions, valid, gripper_index=None, gripper_loss="smooth_l1")
    assert alone["arm_loss"].item() == pytest.approx((0.08 + 0 + 0.5) / 3)
    nothing = action_losses(predicted, actions, ~valid & False, gripper_index=2, gripper_loss="bce")
    assert nothing["arm_loss"] == nothing["gripper_loss"] == 0


def test_the_cross_entropy_of_steps_that_do_not_exist_is_left_out():
    logits, ids = torch.zeros(2, 2, 3, 5), torch.zeros(2, 2, 3, dtype=torch.int64)
    logits[0, 0, :, 0] = 100
    valid = torch.tensor([[True, False], [True, False]])
    assert latent_loss(logits, ids, valid).item() == pytest.approx(torch.log(torch.tensor(5.0)).item() / 2)


def test_codes_of_a_live_model_are_those_of_its_pairs(tmp_path):
    torch.manual_seed(0)
    lam = LatentActionModel.from_config(**TINY_LAM, quantizer="vq", codebook_size=5).eval()
    lam.save_pretrained(tmp_path)
    found = MotoGPTConfig(**TINY_GPT, lam_path=str(tmp_path)).find_tokenizer(None)
    policy = make_policy(lam_path=str(tmp_path), **found)
    frames = torch.rand(2, 3, 3, 32, 32)
    batch = fake_batch(2) | {
        CAMERA: frames,
        f"{CAMERA}_is_pad": torch.tensor([[False, False, True], [False, False, False]]),
    }
    batch["observation.state"] = batch["observation.state"][:, None].expand(-1, 3, -1)
    ids, valid = policy._codes(batch)
    for step in (0, 1):
        expected = lam.encode(frames[:, step : step + 2]).code_indices
        assert torch.equal(ids[:, step], expected)
    assert valid.tolist() == [[True, False], [True, True]]
    loss, _ = loss_of(policy, batch)
    loss.backward()
    assert not any(name.startswith("_lam") or "lam." in name for name in policy.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": None, "codebook_size": None}, "there are no codes to learn.*--policy.lam_labels"),
        ({"predict_latents": False, "predict_actions": False}, "there is nothing to learn"),
        ({"lam_labels": "a", "lam_path": "b"}, "both given; codes come from one"),
        ({"gripper_loss": "bce"}, "needs `gripper_index`"),
        ({"act_with_latents": True, "predict_latents": False}, "`act_with_latents` is true"),
        ({"n_action_steps": 9}, r"at most latent_steps \* actions_per_step = 8"),
        ({"gripper_index": 4}, "one of 4 dimensions"),
        ({"lam_camera": "observation.images.side"}, "lam_camera"),
        ({"latent_source": "video"}, "latent_source"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_policy(**options)


def test_codes_of_another_tokenizer_are_refused(tmp_path):
    torch.manual_seed(0)
    LatentActionModel.from_config(**TINY_LAM, quantizer="vq", codebook_size=5).save_pretrained(
        tmp_path / "vq"
    )
    LatentActionModel.from_config(**TINY_LAM).save_pretrained(tmp_path / "continuous")
    trained = MotoGPTConfig(**TINY_GPT | SIZES, lam_path=str(tmp_path / "vq"))
    with pytest.raises(ValueError, match="made by another tokenizer"):
        trained.find_tokenizer(None)
    fresh = {"lam_path": str(tmp_path / "vq"), "codebook_size": 8}
    with pytest.raises(ValueError, match="`codebook_size` is 8; it must be 5"):
        MotoGPTConfig(**TINY_GPT, **fresh).find_tokenizer(None)
    with pytest.raises(ValueError, match=r"a continuous latent action model without codes.*--codebook-size"):
        MotoGPTConfig(**TINY_GPT, lam_path=str(tmp_path / "continuous")).find_tokenizer(None)
    with pytest.raises(ValueError, match="`frame_gap` is 5; it must be 4"):
        MotoGPTConfig(**TINY_GPT | {"frame_gap": 5}, lam_path=str(tmp_path / "vq")).find_tokenizer(None)


def test_a_batch_without_codes_or_frames_says_what_to_do():
    with pytest.raises(ValueError, match=r"lacks `observation.latent_codes`.*--policy.lam_labels"):
        make_policy()(fake_batch())
    with pytest.raises(ValueError, match=r"pre-trained on video and has no actions yet"):
        make_policy(predict_actions=False).predict_action_chunk(fake_batch())
