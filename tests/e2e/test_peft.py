"""Low-rank adaptation through LeRobot's own flags, from a checkpoint to an adapter that acts."""

import json

import pytest
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import make_policy
from safetensors.torch import load_file
from support.helpers import run_train
from support.policies import TINY, TINY_LAM
from support.tiny_datasets import make_tiny_dataset

from lerobot_lara.dit.modeling_lara_dit import LaraDiTPolicy
from lerobot_lara.lam.latent_action_model import LatentActionModel

pytestmark = pytest.mark.e2e
PeftModel = pytest.importorskip("peft").PeftModel
FLAGS = {
    f"policy__{key}": value
    for key, value in TINY.items()
    if key not in ("device", "push_to_hub", "text_encoder")
}


GR00T = {"type": "lara_dit", "action_head": "gr00t", "action_patch_size": 1}


@pytest.mark.parametrize("options", [{"type": "lara_dit"}, GR00T, {"type": "lara"}])
def test_adapters_and_projections_learn_the_rest_stays(tmp_path, options):
    root = make_tiny_dataset(tmp_path / "data", num_frames=16)
    options = {f"policy__{key}": value for key, value in options.items()}
    if options["policy__type"] == "lara":
        torch.manual_seed(0)
        LatentActionModel.from_config(**TINY_LAM).save_pretrained(tmp_path / "lam")
        options |= {"policy__lam_path": tmp_path / "lam", "policy__frame_gap": 4}
    first = run_train(
        dataset__root=root,
        output_dir=tmp_path / "first",
        steps=1,
        policy__text_encoder="null",
        **FLAGS | options,
    )
    second = run_train(
        policy__path=first.checkpoint, peft__r=2, dataset__root=root, output_dir=tmp_path / "second", steps=3
    )
    record = json.loads((second.checkpoint / "train_config.json").read_text())
    assert record["policy"]["use_peft"] is True, "else LeRobot resumes, and pushes, without the adapter"
    adapter = load_file(second.checkpoint / "adapter_model.safetensors")
    assert not (second.checkpoint / "model.safetensors").exists()
    trained = {"lora_A", "lora_B", "state_encoder", "action_encoder", "action_decoder", "alignment_head"}
    assert all(trained & set(key.split(".")) for key in adapter)
    assert any("attention.to_q.lora_A" in key for key in adapter)
    assert any("action_decoder.output.weight" in key for key in adapter)
    config = PreTrainedConfig.from_pretrained(second.checkpoint)
    config.pretrained_path = second.checkpoint
    policy = make_policy(config, ds_meta=_metadata(root))
    plain = load_file(first.checkpoint / "model.safetensors")
    own = policy.get_base_model().state_dict()
    kept = [key for key in plain if key in own and not trained & set(key.split("."))]
    assert kept and all(torch.equal(plain[key], own[key]) for key in kept)
    loaded = {key.replace("base_model.model.", ""): value for key, value in adapter.items()}
    decoder = "action_head.action_decoder.output.weight"
    assert not torch.equal(loaded[decoder], plain[decoder])
    observation = {"observation.image": torch.rand(1, 3, 32, 32), "observation.state": torch.randn(1, 4)}
    assert policy.predict_action_chunk(observation).shape == (1, 8, 4)


def test_an_adapter_for_a_new_robot_acts(tmp_path):
    """Its rows of the projections come with the adapter, as LeRobot's evaluation loads it: without a dataset."""
    root = make_tiny_dataset(tmp_path / "data", num_frames=16)
    flags = {"policy__type": "lara_dit", "policy__embodiment": "arm", "policy__text_encoder": "null"}
    first = run_train(dataset__root=root, output_dir=tmp_path / "first", steps=1, **FLAGS | flags)
    second = run_train(
        policy__path=first.checkpoint,
        policy__embodiment="hand",
        policy__grow_embodiments=True,
        peft__r=2,
        dataset__root=root,
        output_dir=tmp_path / "second",
        steps=3,
    )
    config = PreTrainedConfig.from_pretrained(second.checkpoint)
    assert config.embodiments == ["arm", "hand"] and config.embodiment == "hand" and config.use_peft
    record = json.loads((second.checkpoint / "train_config.json").read_text())
    assert record["policy"]["use_peft"] is True, "else LeRobot resumes, and pushes, without the adapter"
    adapter = load_file(second.checkpoint / "adapter_model.safetensors")
    [key] = [key for key in adapter if key.endswith("action_decoder.output.weight")]
    base = LaraDiTPolicy.from_pretrained(first.checkpoint, config=config)
    policy = PeftModel.from_pretrained(base, second.checkpoint)
    decoder = policy.get_base_model().action_head.action_decoder.modules_to_save["default"]
    assert torch.equal(decoder.output.weight, adapter[key]) and len(adapter[key]) == 2
    observation = {"observation.image": torch.rand(1, 3, 32, 32), "observation.state": torch.randn(1, 4)}
    assert policy.predict_action_chunk(observation).shape == (1, 8, 4)


def _metadata(root):
    from lerobot.datasets.lerobot_dataset import LeRobotDatasetMetadata

    return LeRobotDatasetMetadata("local/tiny", root=root)
