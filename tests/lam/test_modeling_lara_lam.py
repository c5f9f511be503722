"""`lara_lam` inside LeRobot: training by the real entry point, cameras, masks, errors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.factory import make_policy, make_policy_config, make_pre_post_processors
from safetensors.torch import load_file, save_file
from support.helpers import run_train

import lerobot_lara  # noqa: F401  registers the types
from lerobot_lara.lam.configuration_lara_lam import LaraLAMConfig
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.lam.modeling_lara_lam import LaraLAMPolicy

MakeDataset = Callable[..., Path]
TINY: dict[str, Any] = {
    "frame_gap": 4,
    "image_size": 32,
    "prediction_size": 16,
    "frame_encoder_width": 16,
    "idm_width": 32,
    "idm_num_layers": 1,
    "fdm_width": 32,
    "fdm_num_layers": 1,
}
FRONT, WRIST = "observation.images.front", "observation.images.wrist"


def config(*cameras: str, **fields: Any) -> LaraLAMConfig:
    image = PolicyFeature(FeatureType.VISUAL, (3, 32, 32))
    features = dict.fromkeys(cameras or (FRONT, WRIST), image)
    state = {"observation.state": PolicyFeature(FeatureType.STATE, (4,))}
    return LaraLAMConfig(**(TINY | {"device": "cpu", "input_features": features | state} | fields))


def batch(**images: torch.Tensor) -> dict[str, torch.Tensor]:
    frames = {FRONT: torch.rand(4, 2, 3, 32, 32), WRIST: torch.rand(4, 2, 3, 32, 32)}
    return frames | images


def flags(**fields: Any) -> dict[str, Any]:
    return {f"policy__{name}": value for name, value in (TINY | fields).items()}


@pytest.mark.parametrize("action", [True, False], ids=["with actions", "action-free"])
def test_lerobot_trains_it_and_everyone_loads_the_same(
    tiny_dataset: MakeDataset, tmp_path: Path, action: bool
) -> None:
    root = tiny_dataset(action=action, state=action)
    run = run_train(
        policy__type="lara_lam",
        dataset__root=root,
        output_dir=tmp_path / "out",
        steps=3,
        **flags(quantizer="vq", codebook_size=8),
    )
    logged = run.metrics[-1]
    expected = {"reconstruction_loss", "quantizer_loss", "psnr", "copy_psnr", "latent_std", "effective_rank"}
    assert logged.keys() >= expected | {"codebook_perplexity", "live_codes"}
    assert logged["lr"] > 0 and logged["grad_norm"] > 0

    policy = LaraLAMPolicy.from_pretrained(run.checkpoint)
    lam = LatentActionModel.from_pretrained(run.checkpoint)
    frames = torch.rand(4, 2, 3, 32, 32)
    mine, theirs = lam.encode(frames), policy.model.encode(frames)
    assert torch.equal(mine.latent_action, theirs.latent_action)
    assert torch.equal(mine.code_indices, theirs.code_indices)
    assert lam.frame_gap == 4 and not policy.training
    make_pre_post_processors(policy.config, run.checkpoint)


def test_a_model_saved_without_lerobot_trains_on(tiny_dataset: MakeDataset, tmp_path: Path) -> None:
    LatentActionModel.from_config(**TINY).save_pretrained(tmp_path)
    cfg = PreTrainedConfig.from_pretrained(tmp_path)
    cfg.pretrained_path = tmp_path
    dataset = LeRobotDataset("local/tiny", root=tiny_dataset())
    policy = make_policy(cfg, ds_meta=dataset.meta)
    assert policy.config.camera_key == "observation.image"
    loss, _ = policy.train()(
        {
            "observation.image": torch.rand(4, 2, 3, 32, 32),
            "observation.image_is_pad": torch.zeros(4, 2).bool(),
        }
    )
    loss.backward()


def test_episode_ends_are_left_out_by_sampler_and_mask(tiny_dataset: MakeDataset) -> None:
    cfg = config()
    assert cfg.observation_delta_indices == [0, 4] and cfg.drop_n_last_frames == 4
    assert cfg.action_delta_indices is None and cfg.reward_delta_indices is None
    dataset = LeRobotDataset(
        "local/tiny", root=tiny_dataset(num_frames=8), delta_timestamps={"observation.image": [0, 0.4]}
    )
    pads = torch.stack([dataset[i]["observation.image_is_pad"] for i in range(8)])
    assert pads.any(1).tolist() == [False] * 4 + [True] * 4

    policy = LaraLAMPolicy(config(latent_noise=0.0)).eval()
    data = batch()
    pad = torch.zeros(4, 2, dtype=torch.bool)
    pad[2:, 1] = True
    masked, _ = policy(data | {f"{FRONT}_is_pad": pad})
    kept, _ = policy({FRONT: data[FRONT][:2]})
    torch.testing.assert_close(masked, kept)
    assert not torch.allclose(masked, policy(data)[0])


def test_camera_choice() -> None:
    policy = LaraLAMPolicy(config(latent_noise=0.0, camera=WRIST)).eval()
    data = batch()
    same = policy(data | {FRONT: torch.rand(4, 2, 3, 32, 32)})[0]
    assert torch.equal(policy(data)[0], same)
    assert config().camera_key == FRONT
    with pytest.raises(ValueError, match=r"`camera` is 'observation.images.top'.*front.*wrist"):
        LaraLAMPolicy(config(camera="observation.images.top"))
    with pytest.raises(ValueError, match=rf"batch lacks camera \['{FRONT}'\]"):
        LaraLAMPolicy(config())({WRIST: data[WRIST]})


def test_dataset_without_a_camera(tiny_dataset: MakeDataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'local/tiny' has no camera that records color, only \['action'"):
        run_train(
            policy__type="lara_lam",
            dataset__root=tiny_dataset(cameras=()),
            output_dir=tmp_path / "out",
            **flags(),
        )


def test_frame_gap_longer_than_the_episodes(tiny_dataset: MakeDataset) -> None:
    dataset = LeRobotDataset("local/tiny", root=tiny_dataset(num_frames=5))
    cfg = make_policy_config("lara_lam", device="cpu", **(TINY | {"frame_gap": 5}))
    with pytest.raises(ValueError, match="`frame_gap` is 5"):
        make_policy(cfg, ds_meta=dataset.meta)


def test_bad_batches() -> None:
    policy = LaraLAMPolicy(config())
    with pytest.raises(ValueError, match=r"shape \(4, 3, 32, 32\).*pairs of frames"):
        policy(batch(**{FRONT: torch.rand(4, 3, 32, 32)}))
    with pytest.raises(ValueError, match=r"RGB in \[0, 1\]"):
        policy(batch(**{FRONT: 255 * torch.rand(4, 2, 3, 32, 32)}))


def test_it_does_not_act() -> None:
    policy = LaraLAMPolicy(config())
    policy.reset()
    for call in (policy.select_action, policy.predict_action_chunk):
        with pytest.raises(ValueError, match=r"--policy\.lam_path"):
            call(batch())


def test_random_shift_moves_both_frames_alike_in_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = LaraLAMPolicy(config(random_shift=3))
    seen: list[torch.Tensor] = []
    forward = policy.model.forward
    monkeypatch.setattr(
        policy.model, "forward", lambda frames, valid: seen.append(frames) or forward(frames, valid)
    )
    still = torch.rand(4, 1, 3, 32, 32).expand(4, 2, 3, 32, 32)
    policy.train()({FRONT: still})
    policy.eval()({FRONT: still})
    assert torch.equal(seen[0][:, 0], seen[0][:, 1]) and not torch.equal(seen[0], still)
    assert torch.equal(seen[1], still)


@pytest.mark.parametrize(
    "fields", [{"random_shift": -1}, {"dtype": "float8"}, {"optimizer_lr": 0.0}, {"frame_gap": 0}]
)
def test_impossible_policy_fields_are_named(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(fields))}`"):
        LaraLAMConfig(device="cpu", **fields)


def test_only_trained_parameters_reach_the_optimizer() -> None:
    policy = LaraLAMPolicy(config(frame_encoder="random:torchvision:resnet18"))
    parameters = policy.get_optim_params()
    assert len(parameters) == len(list(policy.parameters())) and all(p.requires_grad for p in parameters)


def test_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    LaraLAMPolicy(config()).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"Corrupted checkpoint: .*model\.safetensors"):
        LaraLAMPolicy.from_pretrained(tmp_path)


def test_missing_weight_is_no_silent_random_start(tmp_path: Path) -> None:
    LaraLAMPolicy(config()).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if not k.endswith("queries")}, file)
    with pytest.raises(ValueError, match=r"model\.safetensors do not fit.*queries"):
        LaraLAMPolicy.from_pretrained(tmp_path)
