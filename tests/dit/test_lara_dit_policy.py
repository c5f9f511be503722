import pytest
import torch
from lerobot.configs import NormalizationMode
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from support.policies import CAMERA, GR00T, fake_batch, make_policy

from lerobot_lara.batch.keys import LATENT_SHIFT
from lerobot_lara.dit.adaln_zero_head import AdaLNZeroActionHead
from lerobot_lara.dit.alternating_head import AlternatingActionHead
from lerobot_lara.dit.configuration_lara_dit import LaraDiTConfig
from lerobot_lara.dit.modeling_lara_dit import LaraDiTPolicy
from lerobot_lara.training.augmentation import random_shift

BOTH_HEADS = pytest.mark.parametrize("options", [{}, GR00T], ids=["adaln_zero", "gr00t"])


def loss_of(policy, batch, seed=3):
    torch.manual_seed(seed)
    return policy.train()(batch)[0]


@BOTH_HEADS
def test_every_parameter_gets_a_gradient(options):
    policy = make_policy(**options)
    batch = fake_batch()
    batch["action_is_pad"][0] = True  # an unlabeled sample: the null state is used
    batch["action_is_pad"][1:] = False
    loss_of(policy, batch).backward()
    silent = [n for n, p in policy.named_parameters() if p.grad is None or not p.grad.any()]
    assert [n for n in silent if not n.endswith("to_k.bias") and "null_state" not in n] == []


@pytest.mark.parametrize(("options", "num_steps"), [({}, 150), (GR00T, 220)], ids=["adaln_zero", "gr00t"])
def test_training_reduces_the_loss(options, num_steps):
    policy, batch = make_policy(fresh=True, **options), fake_batch()
    optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=5e-3)
    losses = []
    for _ in range(num_steps):
        loss, log = policy.train()(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert log == {"flow_loss": pytest.approx(loss.item())}
    assert sum(losses[-20:]) < 0.6 * sum(losses[:20])


def test_padded_steps_do_not_change_the_loss():
    policy, batch = make_policy(), fake_batch()
    batch["action_is_pad"][:, 5:] = True
    before = loss_of(policy, batch)
    batch["action"][:, 6:] = 0.5 * batch["action"][:, 6:]  # a patch of padding only: not even an input
    noisy_input = loss_of(policy, batch)
    batch["action_is_pad"][:] = False
    assert before != loss_of(policy, batch)
    assert abs(before - noisy_input) < 0.2 * abs(before), "padding may reach the input, never the target"


def test_padded_dims_do_not_change_the_loss():
    policy, batch = make_policy(max_action_dim=6, max_state_dim=5), fake_batch()
    before = loss_of(policy, batch)
    with torch.no_grad():  # a decoder that is wrong in the padded dimensions only
        bias = policy.action_head.action_decoder.output.bias.view(2, 6)
        bias[:, 4:] += 100
    torch.testing.assert_close(before, loss_of(policy, batch))
    with torch.no_grad():
        bias[:, :4] += 100
    assert loss_of(policy, batch) > 100


def test_per_sample_dims_can_be_masked():
    policy, batch = make_policy(), fake_batch()
    batch["action_dim_is_pad"] = torch.tensor([[False, False, True, True]] * 4)
    before = loss_of(policy, batch)
    with torch.no_grad():
        policy.action_head.action_decoder.output.bias.view(2, 4)[:, 2:] += 100
    torch.testing.assert_close(before, loss_of(policy, batch))


def test_a_sample_without_actions_adds_nothing_to_the_loss():
    policy, batch = make_policy(), fake_batch()
    batch["action_is_pad"][2] = True
    before = loss_of(policy, batch)
    batch["action"][2] += 50
    batch["observation.state"][2] += 50
    torch.testing.assert_close(before, loss_of(policy, batch))
    batch["action_is_pad"][:] = True
    assert loss_of(policy, batch) == 0


@BOTH_HEADS
def test_chunk_from_given_noise_is_reproducible_bit_for_bit(options):
    policy, batch = make_policy(**options).eval(), fake_batch(2)
    noise = torch.randn(2, 8, 4)
    first = policy.predict_action_chunk(batch, noise=noise)
    assert first.shape == (2, 8, 4)
    assert torch.equal(first, policy.predict_action_chunk(batch, noise=noise))
    assert not torch.allclose(first, policy.predict_action_chunk(batch, noise=noise + 0.1))


def test_sampling_runs_from_noise_to_actions():
    """With a velocity field that points straight at fixed actions, Euler lands on them exactly."""
    policy, batch = make_policy(num_inference_steps=7).eval(), fake_batch(2)
    goal, noise = torch.randn(2, 2, 8, 4)
    times = []

    def velocity(noisy_actions, timestep, **_):
        times.append(timestep[0].item())
        return goal - noise

    policy.action_head.forward = velocity
    torch.testing.assert_close(policy.predict_action_chunk(batch, noise=noise), goal)
    assert times == pytest.approx([i / 7 for i in range(7)], abs=1e-6)


def test_select_action_plays_n_action_steps_then_predicts_again():
    policy, batch = make_policy().eval(), fake_batch(2)
    noise = torch.randn(2, 8, 4)
    chunk = policy.predict_action_chunk(batch, noise=noise)
    actions = [policy.select_action(batch, noise=noise) for _ in range(5)]
    torch.testing.assert_close(torch.stack(actions[:4], 1), chunk[:, :4])
    torch.testing.assert_close(actions[4], chunk[:, 0])
    policy.reset()
    torch.testing.assert_close(policy.select_action(batch, noise=noise), chunk[:, 0])


@BOTH_HEADS
def test_real_time_chunking_continues_the_previous_chunk(options):
    policy, batch = make_policy(num_inference_steps=10, **options).eval(), fake_batch(1)
    noise = torch.randn(1, 8, 4)
    free = policy.predict_action_chunk(batch, noise=noise)
    assert policy.supports_rtc()
    policy.config.rtc_config = RTCConfig(execution_horizon=6, max_guidance_weight=10.0)
    policy.init_rtc_processor()
    left_over = free[0, 2:] + 0.5
    guided = policy.predict_action_chunk(
        batch, noise=noise, inference_delay=2, prev_chunk_left_over=left_over
    )
    assert (guided[0, :2] - left_over[:2]).abs().mean() < 0.5 * (free[0, :2] - left_over[:2]).abs().mean()


@BOTH_HEADS
def test_save_and_load_give_the_same_chunk(tmp_path, options):
    policy, batch = make_policy(cameras=(CAMERA, "observation.images.wrist"), **options).eval(), fake_batch(2)
    batch["observation.images.wrist"] = torch.rand(2, 3, 40, 24)
    policy.save_pretrained(tmp_path)
    loaded = LaraDiTPolicy.from_pretrained(tmp_path, strict=True)
    noise = torch.randn(2, 8, 4)
    expected = policy.predict_action_chunk(batch, noise=noise)
    assert torch.equal(expected, loaded.predict_action_chunk(batch, noise=noise))


def test_a_frozen_vision_encoder_is_not_in_the_checkpoint():
    policy = make_policy(vision_encoder="random:torchvision:resnet18")
    assert not any("image_encoder.backbone" in key for key in policy.state_dict())
    tuned = make_policy(vision_encoder="random:torchvision:resnet18", freeze_vision_encoder=False)
    assert any("image_encoder.backbone" in key for key in tuned.state_dict())


def test_embodiments_select_their_projection():
    policy, batch = make_policy(embodiments=["robot", "arm"]).eval(), fake_batch(2)
    noise = torch.randn(2, 8, 4)
    first = policy.predict_action_chunk(
        batch | {"observation.embodiment_id": torch.tensor([0, 0])}, noise=noise
    )
    mixed = policy.predict_action_chunk(
        batch | {"observation.embodiment_id": torch.tensor([0, 1])}, noise=noise
    )
    torch.testing.assert_close(first[0], mixed[0])
    assert not torch.allclose(first[1], mixed[1])
    with pytest.raises(ValueError, match=r"embodiment_id.*\[0, 2\).*'robot', 'arm'"):
        policy.predict_action_chunk(batch | {"observation.embodiment_id": torch.tensor([0, 2])})


@BOTH_HEADS
def test_works_without_state(options):
    policy = make_policy(state=0, **options)
    policy.predict_action_chunk(fake_batch(2, state=0))
    assert loss_of(policy, fake_batch(2, state=0)) > 0


def test_random_shift_acts_in_training_only():
    policy, batch = make_policy(random_shift=4), fake_batch(2)
    assert not torch.equal(policy.train().augment(batch)[CAMERA], batch[CAMERA])
    assert torch.equal(policy.eval().augment(batch)[CAMERA], batch[CAMERA])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cameras": ()}, "no color camera"),
        ({"action": 0}, "action-free.*lara_lam"),
        ({"chunk_size": 4, "n_action_steps": 8}, "`n_action_steps` is 8.*chunk_size=4"),
        ({"num_heads": 3}, "`num_heads` is 3.*width=16"),
        ({"action_patch_size": 3}, "`action_patch_size` is 3.*chunk_size=8"),
        ({"action_head": "unet"}, "`action_head` is 'unet'.*adaln_zero.*gr00t"),
        (GR00T | {"action_patch_size": 2}, "`action_patch_size` is 2.*1 with action_head='gr00t'.*--policy"),
        ({"ignore_context_mask": True}, "`ignore_context_mask` is True.*action_head='adaln_zero'"),
        ({"projection_width": 8}, "`projection_width` is 8.*action_head='gr00t'"),
        (GR00T | {"projection_width": 0}, "`projection_width` is 0.*at least 1"),
        ({"max_action_dim": 2}, "`max_action_dim` is 2.*4 dimensions"),
        ({"dtype": "float16"}, "`dtype`"),
        ({"state_dropout": 1.0}, "`state_dropout`"),
        ({"random_shift": -1}, "`random_shift`"),
        ({"embodiments": ["arm", "arm"]}, r"`embodiments` is \['arm', 'arm'\].*twice"),
        ({"embodiments": ["arm", ""]}, r"`embodiments` is \['arm', ''\]"),
        (
            {"embodiments": ["robot", "arm"], "embodiment": "amr"},
            r"`embodiment` is 'amr'; .*\['robot', 'arm'\].*--policy.grow_embodiments=true",
        ),
        ({"normalization_mapping": {"VISUAL": NormalizationMode.MEAN_STD}}, "VISUAL.*IDENTITY"),
        ({"vision_encoder": "nobody/no-such-model"}, "`vision_encoder`.*nobody/no-such-model"),
        ({"text_encoder": "nobody/no-such-model"}, "`text_encoder`.*nobody/no-such-model"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_policy(**options)


def test_missing_camera_in_the_batch_is_named():
    policy, batch = make_policy(), fake_batch()
    batch["observation.images.top"] = batch.pop(CAMERA)
    with pytest.raises(ValueError, match=r"observation\.image'.*observation\.images\.top"):
        policy.predict_action_chunk(batch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({CAMERA: torch.rand(4, 1, 32, 32)}, "not RGB"),
        ({CAMERA: 255 * torch.rand(4, 3, 32, 32)}, r"must be RGB in \[0, 1\]"),
        ({"observation.state": None}, "lacks `observation.state`"),
    ],
)
def test_bad_observations_are_refused(change, message):
    policy = make_policy()
    batch = {key: value for key, value in (fake_batch() | change).items() if value is not None}
    for run in (policy.predict_action_chunk, policy.train()):
        with pytest.raises(ValueError, match=message):
            run(batch)


def test_padded_dims_stay_out_of_the_flow():
    """What the padded dimensions of noise and network output hold must not reach the real ones."""
    policy, batch = make_policy(max_action_dim=6).eval(), fake_batch(2)
    noise = torch.randn(2, 8, 6)
    before = policy.predict_action_chunk(batch, noise=noise)
    noise[..., 4:] += 100
    with torch.no_grad():
        policy.action_head.action_decoder.output.bias.view(2, 6)[:, 4:] += 100
    torch.testing.assert_close(before, policy.predict_action_chunk(batch, noise=noise))


def test_the_policy_acts_with_its_own_embodiment():
    torch.manual_seed(0)
    policy, batch = make_policy(embodiments=["robot", "arm"], embodiment="arm").eval(), fake_batch(2)
    noise = torch.randn(2, 8, 4)
    rows = {row: batch | {"observation.embodiment_id": torch.tensor([row, row])} for row in (0, 1)}
    chunk = policy.predict_action_chunk(batch, noise=noise)
    assert torch.equal(chunk, policy.predict_action_chunk(rows[1], noise=noise))
    assert not torch.allclose(chunk, policy.predict_action_chunk(rows[0], noise=noise))
    assert make_policy(embodiments=["robot", "arm"]).config.embodiment_id == 0


def test_the_action_head_is_the_configured_one():
    head = make_policy(**GR00T, projection_width=12, ignore_context_mask=True).action_head
    assert isinstance(head, AlternatingActionHead)
    assert head.ignore_context_mask and head.output_projection.out_features == 12
    assert not make_policy(**GR00T).action_head.ignore_context_mask
    assert isinstance(make_policy().action_head, AdaLNZeroActionHead)


def test_future_frames_are_not_asked_for():
    config = LaraDiTConfig(device="cpu", chunk_size=5, n_action_steps=5)
    assert config.observation_delta_indices is None
    assert config.action_delta_indices == [0, 1, 2, 3, 4]


def test_images_are_shifted_as_the_frames_that_their_labels_are_of():
    policy = make_policy(random_shift=3).train()
    shifts = torch.tensor([[2, -1], [0, 0], [-3, 3], [1, 1]])
    batch = fake_batch()
    augmented = policy.augment(batch | {LATENT_SHIFT: shifts})
    assert torch.equal(augmented[CAMERA], random_shift(batch[CAMERA], 3, shifts=shifts))
    assert policy.eval().augment(batch) is batch
