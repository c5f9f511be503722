"""`lara`: the joint objective, its gradients, and what it leaves on disk."""

import json

import pytest
import torch
from lerobot.policies.factory import make_pre_post_processors
from safetensors.torch import load_file
from support.policies import (
    CAMERA,
    GR00T,
    TINY,
    TINY_LAM,
    fake_batch,
    features,
    grad_norm,
    loss_of,
    make_lara,
    pair_batch,
)

from lerobot_lara.alignment import mixin
from lerobot_lara.configuration_lara import LaraConfig
from lerobot_lara.dit.modeling_lara_dit import LaraDiTPolicy
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.modeling_lara import LaraPolicy
from lerobot_lara.publish.export import export_base


@pytest.fixture
def lam_path(tmp_path):
    torch.manual_seed(0)
    LatentActionModel.from_config(**TINY_LAM).save_pretrained(tmp_path / "lam_stage_1")
    return str(tmp_path / "lam_stage_1")


def test_loss_is_the_weighted_sum_of_its_logged_terms(lam_path):
    policy = make_lara(lam_path, alignment_loss_weight=0.3, lam_loss_weight=0.7)
    loss, log = loss_of(policy, pair_batch())
    expected = log["flow_loss"] + 0.3 * log["alignment_loss"] + 0.7 * log["lam_loss"]
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    for name in ("alignment_retrieval", "alignment_centered_cosine", "latent_effective_rank", "lam_psnr"):
        assert isinstance(log[name], float), name
    assert all(isinstance(value, float) for value in log.values()), "LeRobot logs plain numbers only"


def test_flow_loss_is_that_of_the_plain_policy_on_the_present_frame(lam_path):
    policy, batch = make_lara(lam_path), pair_batch()
    _, log = loss_of(policy, batch)
    present = batch | {key: batch[key][:, 0] for key in (CAMERA, "observation.state")}
    plain = LaraDiTPolicy(policy.config)
    plain.load_state_dict(
        {k: v for k, v in policy.state_dict().items() if not k.startswith(("lam.", "alignment."))}
    )
    assert loss_of(plain, present)[1]["flow_loss"] == log["flow_loss"]
    batch[CAMERA][:, 1] = 0
    assert loss_of(policy, batch)[1]["flow_loss"] == log["flow_loss"], "the future must not reach the policy"


@pytest.mark.parametrize("target", ["joint", "stop", "ema"])
def test_gradient_of_the_alignment_reaches_the_lam_only_if_joint(lam_path, target):
    policy = make_lara(lam_path, alignment_target=target, lam_loss_weight=0.0)
    loss_of(policy, pair_batch())[0].backward()
    assert (grad_norm(policy.lam.inverse_dynamics) > 0) == (target == "joint")
    assert grad_norm(policy.alignment.alignment_head) > 0
    tapped, after = policy.action_head.blocks[0], policy.action_head.blocks[1]
    assert grad_norm(tapped) > 0 and grad_norm(after) > 0


def test_alignment_loss_is_the_configured_one(lam_path):
    losses = {}
    for name, options in {
        "cosine": {},
        "contrastive": {"alignment_loss": "contrastive"},
        "colder": {"alignment_loss": "contrastive", "alignment_temperature": 0.01},
    }.items():
        _, log = loss_of(make_lara(lam_path, **options), pair_batch())
        losses[name] = log["alignment_loss"]
    assert losses["cosine"] < 1.5 < losses["contrastive"], "an untrained policy is near 1, and near log 6"
    assert losses["colder"] > losses["contrastive"], (
        "an untrained policy errs more surely at a low temperature"
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"alignment_target": "joint"}, {"alignment_target": "ema"}, {"freeze_lam": True}],
    ids=["stop", "joint", "ema", "frozen"],
)
def test_relative_alignment_leaves_out_what_the_latent_says_without_motion(lam_path, options):
    policy, batch, compared = make_lara(lam_path, alignment_relative=True, **options), pair_batch(), []
    policy.alignment.register_forward_pre_hook(lambda module, inputs: compared.append(inputs[1]))
    lam = policy.lam
    if policy.slow_lam is not None:
        lam = policy.slow_lam.module
        torch.nn.init.normal_(policy.lam.inverse_dynamics.queries)  # the copy and what it copies differ
    loss_of(policy, batch)
    frames = batch[CAMERA]
    with torch.no_grad():
        own, still = (lam.encode(pair).latent_action for pair in (frames, frames[:, [0, 0]]))
    torch.testing.assert_close(compared[0].detach(), own - still)
    assert (own - still).abs().max() > 0.01
    assert compared[0].requires_grad == (options.get("alignment_target") == "joint")
    batch[CAMERA] = frames[:, [0, 0]]
    loss_of(policy, batch)
    assert compared[1].abs().max() < 1e-5, "nothing has moved"


def test_warmup_keeps_the_policys_gradient_from_the_lam(lam_path):
    policy = make_lara(lam_path, alignment_target="joint", lam_warmup_steps=2, lam_loss_weight=0.0)
    reached = []
    for _ in range(4):
        policy.zero_grad()
        loss_of(policy, pair_batch())[0].backward()
        reached.append(grad_norm(policy.lam.inverse_dynamics) > 0)
        loss_of(policy.eval(), pair_batch())  # held-out batches and repeated losses are no steps
        policy.update()
    assert reached == [False, False, True, True]
    assert policy.alignment.num_updates == 4


def test_the_warmup_continues_where_a_checkpoint_left_it(lam_path, tmp_path):
    options = {"alignment_target": "joint", "lam_warmup_steps": 2, "lam_loss_weight": 0.0}
    policy = make_lara(lam_path, **options)
    policy.update()
    policy.save_pretrained(tmp_path / "out")
    resumed = LaraPolicy.from_pretrained(tmp_path / "out", dataset_meta=Meta())
    reached = []
    for _ in range(2):
        resumed.zero_grad()
        loss_of(resumed, pair_batch())[0].backward()
        reached.append(grad_norm(resumed.lam.inverse_dynamics) > 0)
        resumed.update()
    assert reached == [False, True]


def test_alignment_reaches_the_tapped_block_and_those_below_only(lam_path):
    policy = make_lara(lam_path, alignment_layer=2)
    batch = pair_batch()
    batch["action_is_pad"][:] = True  # no flow loss
    loss_of(policy, batch)[0].backward()
    norms = [grad_norm(block) for block in policy.action_head.blocks]
    assert norms[0] > 0 and norms[1] > 0 and norms[2] == 0


def test_frozen_lam_stays_put(lam_path):
    policy = make_lara(lam_path, freeze_lam=True)
    assert not any(p.requires_grad for p in policy.lam.parameters()) and not policy.train().lam.training
    groups = policy.get_optim_params()
    assert len(groups) == 1
    _, log = loss_of(policy, pair_batch())
    assert "lam_loss" not in log


def test_ema_target_follows_slowly(lam_path):
    policy = make_lara(lam_path, alignment_target="ema", lam_ema_decay=0.9)
    source = next(policy.lam.inverse_dynamics.parameters())
    copy = next(policy.slow_lam.module.inverse_dynamics.parameters())
    policy.update()
    start = copy.clone()
    with torch.no_grad():
        source += 1.0
    policy.update()
    torch.testing.assert_close(copy, start + 0.1)


def test_lam_has_its_own_learning_rate(lam_path):
    policy = make_lara(lam_path, lam_lr=3e-5)
    groups = policy.get_optim_params()
    lam = {id(p) for p in policy.lam.parameters() if p.requires_grad}
    assert {id(p) for p in groups[1]["params"]} == lam and groups[1]["lr"] == 3e-5
    assert "lr" not in groups[0] and not lam & {id(p) for p in groups[0]["params"]}
    trainable = sum(p.requires_grad for p in policy.parameters())
    assert len(groups[0]["params"]) + len(groups[1]["params"]) == trainable


def test_pairs_across_the_episode_end_are_masked(lam_path):
    policy, batch = make_lara(lam_path), pair_batch()
    batch[f"{CAMERA}_is_pad"][2:, 1] = True
    _, log = loss_of(policy, batch)
    batch[CAMERA][2:, 1] = torch.rand_like(batch[CAMERA][2:, 1])
    _, changed = loss_of(make_lara(lam_path), batch)
    assert changed["alignment_loss"] == pytest.approx(log["alignment_loss"], abs=1e-6)
    assert changed["lam_loss"] == pytest.approx(log["lam_loss"], abs=1e-6)
    batch[f"{CAMERA}_is_pad"][:, 1] = True
    _, none_left = loss_of(make_lara(lam_path), batch)
    assert none_left["alignment_loss"] == 0 and none_left["lam_loss"] == 0


def test_episode_end_is_seen_when_cameras_are_renamed(lam_path):
    """LeRobot's rename_map renames images, not their flags."""
    policy, batch = make_lara(lam_path), pair_batch()
    batch[f"{CAMERA}_is_pad"][:, 1] = True
    batch["observation.images.front_is_pad"] = batch.pop(f"{CAMERA}_is_pad")
    assert loss_of(policy, batch)[1]["lam_loss"] == 0


def test_another_spelling_of_lam_path_keeps_the_aligned_lam(lam_path, tmp_path, monkeypatch):
    policy = make_lara(lam_path)
    with torch.no_grad():
        next(policy.lam.parameters()).add_(1)
    policy.save_pretrained(tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    config = LaraConfig.from_pretrained(tmp_path / "out")
    config.lam_path = "./lam_stage_1/"
    resumed = LaraPolicy.from_pretrained(tmp_path / "out", config=config, dataset_meta=Meta())
    assert torch.equal(next(policy.lam.parameters()), next(resumed.lam.parameters()))


def test_damaged_alignment_file_is_explained(lam_path, tmp_path):
    make_lara(lam_path).save_pretrained(tmp_path / "out")
    file = tmp_path / "out" / "alignment.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"Corrupted checkpoint.*alignment\.safetensors"):
        LaraPolicy.from_pretrained(tmp_path / "out", dataset_meta=Meta())


def test_unlabeled_samples_align_without_state_or_actions(lam_path):
    batch = pair_batch()
    batch["action_is_pad"][:] = True
    _, log = loss_of(make_lara(lam_path), batch)
    batch["observation.state"] += 1
    batch["action"] += 1
    _, changed = loss_of(make_lara(lam_path), batch)
    assert log["flow_loss"] == 0 and changed == log
    assert log["alignment_loss"] > 0


def test_both_frames_and_the_policy_see_the_same_shift(lam_path):
    policy, batch = make_lara(lam_path, random_shift=5), pair_batch()
    batch[CAMERA][:, 1] = batch[CAMERA][:, 0]
    seen = {}
    policy.train().lam.forward = lambda frames, **options: (
        seen.update(frames=frames) or LatentActionModel.forward(policy.lam, frames, **options)
    )
    policy.observation_encoder.register_forward_pre_hook(lambda module, args: seen.update(policy=args[0][0]))
    loss_of(policy, batch)
    assert torch.equal(seen["frames"][:, 0], seen["frames"][:, 1])
    assert torch.equal(seen["frames"][:, 0], seen["policy"])
    assert not torch.equal(seen["policy"], batch[CAMERA][:, 0])


def test_training_aligns(lam_path):
    policy = make_lara(lam_path, alignment_loss_weight=1.0, freeze_lam=True, awake=False)
    batch = pair_batch(16)
    optimizer = torch.optim.AdamW(policy.get_optim_params(), lr=1e-2)
    logs = []
    for _ in range(120):
        loss, log = policy.train()(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        logs.append(log)
    assert logs[-1]["alignment_loss"] < 0.1 * logs[0]["alignment_loss"]
    retrieval = [sum(log["alignment_retrieval"] for log in part) / 20 for part in (logs[:20], logs[-20:])]
    assert retrieval[1] > 2 * retrieval[0] > 0.05
    assert logs[-1]["alignment_centered_cosine"] > 0.9


def test_the_head_of_the_paper_trains_aligned_and_is_exported(lam_path, tmp_path):
    policy = make_lara(lam_path, alignment_target="joint", lam_loss_weight=0.0, alignment_layer=2, **GR00T)
    batch = pair_batch()
    batch["action_is_pad"][0] = True  # its null state learns from the alignment
    loss, log = loss_of(policy, batch)
    loss.backward()
    assert log["flow_loss"] > 0 and log["alignment_loss"] > 0
    assert grad_norm(policy.lam.inverse_dynamics) > 0 and grad_norm(policy.alignment.alignment_head) > 0
    head = {name: p.grad for name, p in policy.action_head.named_parameters()}
    silent = [name for name, gradient in head.items() if gradient is None or not gradient.any()]
    assert [name for name in silent if not name.endswith("to_k.bias")] == []

    checkpoint, exported = tmp_path / "lara", tmp_path / "lara_dit"
    policy.save_pretrained(checkpoint)
    for pipeline in make_pre_post_processors(policy.config):
        pipeline.save_pretrained(checkpoint)
    export_base(checkpoint, exported)
    plain = LaraDiTPolicy.from_pretrained(exported, strict=True)
    noise = torch.randn(2, 8, 4)
    expected = policy.predict_action_chunk(fake_batch(2), noise=noise)
    assert plain.config.action_head == "gr00t" and expected.shape == (2, 8, 4)
    assert torch.equal(expected, plain.predict_action_chunk(fake_batch(2), noise=noise))


def test_checkpoint_holds_the_plain_policy_and_a_lam_artifact(lam_path, tmp_path):
    policy = make_lara(lam_path)
    policy.save_pretrained(tmp_path / "out")
    keys = set(load_file(tmp_path / "out" / "model.safetensors"))
    assert keys == set(LaraDiTPolicy(policy.config).state_dict())
    lam = LatentActionModel.from_pretrained(tmp_path / "out", subfolder="lam")
    for key, value in policy.lam.state_dict().items():
        assert torch.equal(value, lam.state_dict()[key]), key


def test_acting_needs_no_lam(lam_path, tmp_path, monkeypatch):
    policy, batch = make_lara(lam_path).eval(), fake_batch(2)
    policy.save_pretrained(tmp_path / "out")
    monkeypatch.setattr(LatentActionModel, "__init__", lambda *a, **k: pytest.fail("a LAM was built"))
    (tmp_path / "out" / "lam" / "model.safetensors").write_bytes(b"not to be opened")
    (tmp_path / "out" / "alignment.safetensors").unlink()
    loaded = LaraPolicy.from_pretrained(tmp_path / "out", strict=True)
    assert loaded.lam is None and loaded.alignment is None
    noise = torch.randn(2, 8, 4)
    assert torch.equal(
        policy.predict_action_chunk(batch, noise=noise), loaded.predict_action_chunk(batch, noise=noise)
    )
    with pytest.raises(ValueError, match="attach_alignment"):
        loaded.train()(pair_batch())


class Meta:
    features = {}
    episodes = {"length": [20, 20]}


@pytest.mark.parametrize("options", [{}, {"alignment_target": "ema"}])
def test_training_goes_on_from_a_checkpoint_as_if_never_stopped(lam_path, tmp_path, options):
    policy = make_lara(lam_path, **options)
    loss_of(policy, pair_batch())
    with torch.no_grad():
        for parameter in policy.lam.parameters():
            parameter += 0.01
    policy.update()
    policy.save_pretrained(tmp_path / "out")
    resumed = LaraPolicy.from_pretrained(tmp_path / "out", dataset_meta=Meta())
    expected, actual = policy.state_dict(), resumed.state_dict()
    assert expected.keys() == actual.keys()
    for key in expected:
        assert torch.equal(expected[key], actual[key]), key
    assert loss_of(policy, pair_batch())[1] == loss_of(resumed, pair_batch())[1]


def test_saving_a_policy_that_was_loaded_to_act_reads_nothing_again(lam_path, tmp_path, caplog):
    make_lara(lam_path).save_pretrained(tmp_path / "a")
    policy = LaraPolicy.from_pretrained(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "gone")
    policy.save_pretrained(tmp_path / "b")
    assert "without a latent action model" in caplog.text and "attach_alignment()" in caplog.text
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("gone", "b"))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert LaraPolicy.from_pretrained(tmp_path / "b").lam is None
    with pytest.raises(ValueError, match="`lam_path` is missing"):
        LaraPolicy.from_pretrained(tmp_path / "b", dataset_meta=Meta())


def test_a_policy_without_its_lam_does_not_stand_beside_another(lam_path, tmp_path):
    """New weights and an old LAM would be taken for one checkpoint."""
    make_lara(lam_path).save_pretrained(tmp_path / "a")
    policy = LaraPolicy.from_pretrained(tmp_path / "a")
    with pytest.raises(ValueError, match=r"has a latent action model, but this policy was loaded to act"):
        policy.save_pretrained(tmp_path / "a")


def test_the_count_of_updates_follows_a_loaded_state(lam_path):
    policy, other = make_lara(lam_path), make_lara(lam_path)
    policy.update()
    other.load_state_dict(policy.state_dict())
    assert other._num_updates == 1


def test_a_policy_that_was_loaded_to_act_is_saved_whole_with_its_lam_attached(lam_path, tmp_path):
    make_lara(lam_path).save_pretrained(tmp_path / "a")
    policy = LaraPolicy.from_pretrained(tmp_path / "a")
    policy.attach_alignment()
    policy.save_pretrained(tmp_path / "b")
    for name in ("model.safetensors", "alignment.safetensors", "lam/model.safetensors"):
        a, b = load_file(tmp_path / "a" / name), load_file(tmp_path / "b" / name)
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a), name


def test_another_lam_path_replaces_the_checkpoints_lam(lam_path, tmp_path):
    make_lara(lam_path).save_pretrained(tmp_path / "out")
    torch.manual_seed(9)
    other = LatentActionModel.from_config(**TINY_LAM)
    other.save_pretrained(tmp_path / "other")
    config = LaraConfig.from_pretrained(tmp_path / "out")
    config.lam_path = str(tmp_path / "other")
    policy = LaraPolicy.from_pretrained(tmp_path / "out", config=config, dataset_meta=Meta())
    for key, value in other.state_dict().items():
        assert torch.equal(policy.lam.state_dict()[key], value), key


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam_path": None}, "`lam_path` is missing.*lara_lam"),
        ({"lam_path": "/no/such/folder"}, "/no/such/folder"),
        ({"frame_gap": 5}, "frame gap of 4.*`frame_gap` is 5.*--policy.frame_gap=4"),
        ({"alignment_layer": 4}, "`alignment_layer` is 4.*blocks 1 to 3"),
        ({"alignment_layer": 0}, "`alignment_layer` is 0"),
        ({"alignment_head": "deep"}, "`alignment_head` is 'deep'.*linear"),
        ({"alignment_target": "none"}, "`alignment_target`"),
        ({"alignment_pooling": "max"}, "`alignment_pooling`"),
        ({"lam_camera": "observation.images.top"}, "`lam_camera`.*observation.images.top.*observation.image"),
        ({"alignment_loss": "l2"}, "`alignment_loss` is 'l2'.*contrastive"),
        ({"alignment_temperature": 0.0}, "`alignment_temperature` is 0.0"),
        ({"alignment_loss_weight": -1.0}, "`alignment_loss_weight`"),
        ({"lam_ema_decay": 1.0}, "`lam_ema_decay`"),
        ({"frame_gap": 0}, "`frame_gap` is 0"),
        ({"lam_warmup_steps": 5}, "`lam_warmup_steps` is 5.*'stop'.*joint"),
        (
            {"freeze_lam": True, "alignment_target": "ema"},
            "`alignment_target` is 'ema', but with `freeze_lam`",
        ),
    ],
)
def test_bad_options_are_refused(lam_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_lara(**{"lam_path": lam_path} | options)


def test_a_policy_is_no_lam(lam_path, tmp_path):
    make_lara(lam_path).save_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match=r"type 'lara'.*folder `lam`"):
        make_lara(str(tmp_path / "out"))


def test_a_lam_of_another_latent_width_does_not_fit_a_checkpoint(lam_path, tmp_path):
    make_lara(lam_path).save_pretrained(tmp_path / "out")
    LatentActionModel.from_config(**TINY_LAM | {"latent_dim": 5}).save_pretrained(tmp_path / "wide")
    config = LaraConfig.from_pretrained(tmp_path / "out")
    config.lam_path = str(tmp_path / "wide")
    with pytest.raises(ValueError, match=r"width 10.*width 6"):
        LaraPolicy.from_pretrained(tmp_path / "out", config=config, dataset_meta=Meta())


def test_alignment_options_must_fit_the_checkpoint(lam_path, tmp_path):
    make_lara(lam_path).save_pretrained(tmp_path / "out")
    config = LaraConfig.from_pretrained(tmp_path / "out")
    config.alignment_head = "linear"
    with pytest.raises(ValueError, match="alignment_head"):
        LaraPolicy.from_pretrained(tmp_path / "out", config=config, dataset_meta=Meta())


def test_episodes_shorter_than_the_gap_are_refused(lam_path):
    class Short:
        episodes = {"length": [3, 4]}

    with pytest.raises(ValueError, match="frame_gap"):
        LaraPolicy(
            LaraConfig(**TINY | features() | {"lam_path": lam_path, "frame_gap": 4}), dataset_meta=Short()
        )


def test_a_single_frame_is_no_pair(lam_path):
    with pytest.raises(ValueError, match=r"pairs of frames"):
        loss_of(make_lara(lam_path), fake_batch())


def test_damaged_and_unknown_checkpoints_are_explained(lam_path, tmp_path):
    make_lara(lam_path).save_pretrained(tmp_path / "out")
    weights, config = tmp_path / "out" / "model.safetensors", tmp_path / "out" / "config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"[Cc]orrupted checkpoint.*model\.safetensors"):
        LaraPolicy.from_pretrained(tmp_path / "out")
    weights.write_bytes(whole)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"warp_factor": 9}))
    with pytest.raises(ValueError, match="warp_factor"):
        LaraPolicy.from_pretrained(tmp_path / "out")


def test_each_dataset_of_a_mixture_is_centered_by_itself(lam_path):
    policy, batch = make_lara(lam_path), pair_batch()

    def alignment_loss(index):
        return loss_of(policy, batch | {"observation.dataset_index": torch.tensor(index)})[1][
            "alignment_loss"
        ]

    together = loss_of(policy, batch)[1]["alignment_loss"]
    assert alignment_loss([0] * 6) == pytest.approx(together)
    assert alignment_loss([0, 0, 0, 1, 1, 1]) != pytest.approx(together, rel=1e-3)


def test_a_slow_copy_of_a_sharded_lam_is_refused(lam_path, monkeypatch):
    policy = make_lara(lam_path, alignment_target="ema")
    policy.update()
    # Stands in for FSDP's wrapper, which needs several processes.
    monkeypatch.setattr(mixin, "FullyShardedDataParallel", type(policy.lam.inverse_dynamics))
    with pytest.raises(
        ValueError, match="`alignment_target` is 'ema', whose slow copy of the LAM FSDP cannot"
    ):
        policy.update()
