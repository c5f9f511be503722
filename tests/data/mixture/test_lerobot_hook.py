"""Mixtures through LeRobot's real `lerobot-train`."""

import json
import pickle

import numpy as np
import pytest
import torch
from lerobot.datasets import factory
from lerobot.policies.factory import make_pre_post_processors
from lerobot.scripts import lerobot_train
from support.commands import run_train
from support.tiny_datasets import REPO_ID

from lerobot_lara.data.mixture import lerobot_hook
from lerobot_lara.data.mixture.build import build_mixture
from lerobot_lara.data.mixture.config import load_mixture
from lerobot_lara.data.mixture.dataset import MixtureDataset
from lerobot_lara.modeling_lara import LaraPolicy

from .conftest import ARM, ROBOT, VIDEO, lara_config

TINY_LAM = {
    "policy__type": "lara_lam",
    "policy__frame_gap": 4,
    "policy__image_size": 32,
    "policy__prediction_size": 16,
    "policy__idm_num_layers": 1,
    "policy__fdm_num_layers": 1,
}
TINY_POLICY = {
    "policy__image_size": 32,
    "policy__text_encoder": "null",
    "policy__width": 32,
    "policy__num_layers": 2,
    "policy__num_heads": 2,
    "policy__vision_encoder_width": 16,
    "policy__chunk_size": 8,
    "policy__max_action_dim": 7,
    "policy__max_state_dim": 5,
}
TINY_LARA = TINY_POLICY | {"policy__type": "lara", "policy__frame_gap": 4}


@pytest.fixture
def draws(monkeypatch):
    """The draws that training reads, in order."""
    read: list[int] = []
    original = MixtureDataset.__getitem__
    monkeypatch.setattr(
        MixtureDataset, "__getitem__", lambda self, i: read.append(int(i)) or original(self, i)
    )
    return read


@pytest.fixture
def lam(write_mixture, tmp_path):
    run = run_train(
        **TINY_LAM, dataset__repo_id=write_mixture(), output_dir=tmp_path / "lam", steps=2, batch_size=8
    )
    assert {f"prediction_error/{name}" for name in ("robot", "arm", "video")} <= run.metrics[0].keys()
    assert json.loads((run.checkpoint / "mixture.json").read_text())["target"] == "robot"
    return run.checkpoint


def test_the_three_types_train_act_and_resume(write_mixture, lam, tmp_path, draws):
    mixture = write_mixture()
    flags = {"dataset__repo_id": mixture, "batch_size": 8}
    draws.clear()
    whole = run_train(
        **TINY_LARA, **flags, policy__lam_path=lam, output_dir=tmp_path / "whole", steps=4, save_freq=2
    )
    uninterrupted = draws.copy()
    for step, window in enumerate(whole.metrics):
        drawn = datasets_of(mixture, uninterrupted[8 * step : 8 * step + 8])
        assert window["labeled_share"] == pytest.approx(
            np.mean([name != "video" for name in drawn]), abs=1e-3
        )
        assert "flow_loss/video" not in window
        assert window["flow_loss/robot"] != window["flow_loss/arm"]
        assert window["lam_prediction_error/video"] != window["lam_prediction_error/robot"]

    # The second half again, from the checkpoint in its middle.
    draws.clear()
    checkpoint = whole.output_dir / "checkpoints" / "000002" / "pretrained_model"
    run_train(config_path=checkpoint / "train_config.json", resume=True, steps=4, output_dir=None)
    assert draws[:16] == uninterrupted[16:32]

    # The policy acts in the dimensions of the target, from LeRobot's own processors.
    policy = LaraPolicy.from_pretrained(whole.checkpoint)
    pre, post = make_pre_post_processors(policy.config, str(whole.checkpoint))
    observation = {
        "observation.image": torch.rand(3, 32, 32),
        "observation.images.wrist": torch.zeros(3, 32, 32),
        "observation.state": torch.zeros(4),
        "task": "push",
    }
    assert post(policy.select_action(pre(observation))).shape == (1, 4)

    dit = run_train(**TINY_POLICY, **flags, policy__type="lara_dit", output_dir=tmp_path / "dit")
    assert dit.metrics[-1]["flow_loss/arm"] > 0


def datasets_of(mixture, draws):
    dataset, _ = build_mixture(load_mixture(mixture), lara_config(), path=mixture, video_backend="pyav")
    return [dataset.entries[dataset.schedule[draw][0]].source.name for draw in draws]


def test_a_latent_action_model_may_go_on_with_other_robots(write_mixture, lam, tmp_path):
    other = write_mixture(ROBOT | {"embodiment": "so100"}, ARM, VIDEO)
    flags = {"policy__path": lam, "dataset__repo_id": other, "steps": 1, "policy__push_to_hub": False}
    assert run_train(**flags, output_dir=tmp_path / "on").metrics


def test_renaming_is_refused(write_mixture, lam, tmp_path):
    with pytest.raises(ValueError, match=r"--rename_map would leave the masks"):
        run_train(
            policy__path=lam,
            policy__push_to_hub=False,
            dataset__repo_id=write_mixture(),
            rename_map='{"observation.image": "observation.images.front"}',
            output_dir=tmp_path / "out",
        )


def test_a_changed_mixture_is_not_resumed(write_mixture, tmp_path):
    run = run_train(**TINY_LAM, dataset__repo_id=write_mixture(), output_dir=tmp_path / "lam", steps=2)
    write_mixture(ROBOT | {"weight": 3}, ARM, VIDEO)
    with pytest.raises(ValueError, match=r"changed since .*`draws` of entry 'robot' was .*--policy.path"):
        run_train(config_path=run.checkpoint / "train_config.json", resume=True, steps=4, output_dir=None)
    write_mixture(ROBOT | {"episodes": [0, 1, 3]}, ARM, VIDEO)
    with pytest.raises(ValueError, match=r"of entry 'robot'"):
        run_train(config_path=run.checkpoint / "train_config.json", resume=True, steps=4, output_dir=None)
    write_mixture(ROBOT, ARM, VIDEO | {"instruction": "something else"})
    with pytest.raises(ValueError, match=r"`instruction` of entry 'video' was None, is something else"):
        run_train(config_path=run.checkpoint / "train_config.json", resume=True, steps=4, output_dir=None)
    write_mixture(ROBOT, VIDEO)
    with pytest.raises(ValueError, match=r"entries \['robot', 'arm', 'video'\] are now \['robot', 'video'\]"):
        run_train(config_path=run.checkpoint / "train_config.json", resume=True, steps=4, output_dir=None)


def test_held_out_loss_and_worker_processes(write_mixture, tmp_path, capfd):
    """Workers are forked, as starting new ones takes long; `test_a_mixture_fits_into_a_worker` does the rest."""
    run = run_train(
        **TINY_LAM,
        dataset__repo_id=write_mixture(),
        dataset__eval_split=0.3,
        dataset__image_transforms__enable=True,
        eval_steps=2,
        max_eval_samples=6,
        num_workers=2,
        dataloader_multiprocessing_context="fork",
        output_dir=tmp_path / "lam",
    )
    assert run.metrics[-1]["prediction_error/video"] > 0
    assert "step 2: eval_loss=" in capfd.readouterr().err


def test_a_mixture_fits_into_a_worker(build):
    """A new worker process gets the dataset pickled; the tables stay on disk."""
    mixed = build()
    pickled = pickle.dumps(mixed)
    assert len(pickled) < 200_000
    copy = pickle.loads(pickled)
    for draw in (0, 60, len(mixed) - 1):
        for key, value in mixed[draw].items():
            assert (
                torch.equal(copy[draw][key], value)
                if isinstance(value, torch.Tensor)
                else copy[draw][key] == value
            )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"dataset__root": "somewhere"}, r"--dataset.root has no meaning for a mixture"),
        ({"dataset__episodes": "[0]"}, r"--dataset.episodes has no meaning for a mixture"),
        ({"dataset__streaming": True}, r"--dataset.streaming is not supported"),
    ],
)
def test_flags_of_single_datasets_are_refused(write_mixture, tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        run_train(**TINY_LAM, **flags, dataset__repo_id=write_mixture(), output_dir=tmp_path / "out")


def test_a_missing_mixture_file(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.yaml does not exist"):
        run_train(**TINY_LAM, dataset__repo_id=tmp_path / "absent.yaml", output_dir=tmp_path / "out")


def test_single_datasets_go_to_lerobots_own_function(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(lerobot_hook, "make_mixture_datasets", None)
    run = run_train(**TINY_LAM, dataset__root=tiny_dataset(), output_dir=tmp_path / "out", steps=1)
    assert not any("/" in name for name in run.metrics[0])
    assert not (run.checkpoint / "mixture.json").exists()
    assert not lerobot_hook.is_mixture(REPO_ID)


def test_a_changed_lerobot_is_noticed(monkeypatch, write_mixture, tmp_path, caplog):
    assert lerobot_hook.problems() == []
    monkeypatch.setattr(factory, "make_train_eval_datasets", lambda cfg, seed: None)
    assert lerobot_hook.problems() == ["`make_train_eval_datasets` takes ['cfg', 'seed'], not ['cfg']"]
    lerobot_hook.install()
    assert "mixtures are off" in caplog.text
    with pytest.raises(ValueError, match=r"Mixtures need LeRobot 0.6.1"):
        run_train(**TINY_LAM, dataset__repo_id=write_mixture(), output_dir=tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(lerobot_hook, "EXPECTED_CALLS", ("no such line",))
    assert lerobot_hook.problems() == [f"{lerobot_train.__name__} no longer has `no such line`"]


def test_installing_again_wraps_once():
    before = factory.make_train_eval_datasets
    lerobot_hook.install()
    assert factory.make_train_eval_datasets.__wrapped__ is before.__wrapped__
    assert lerobot_train.make_train_eval_datasets.__wrapped__ is before.__wrapped__


def test_the_model_card_names_the_datasets(build, monkeypatch):
    from lerobot_lara.lam.configuration_lara_lam import LaraLAMConfig
    from lerobot_lara.lam.modeling_lara_lam import LaraLAMPolicy

    config = LaraLAMConfig(frame_gap=4, device="cpu", image_size=32, prediction_size=16, repo_id="org/lam")
    meta = build(policy=config).meta
    monkeypatch.setattr("huggingface_hub.ModelCard.validate", lambda self: None)
    card = LaraLAMPolicy(config, dataset_meta=meta).generate_model_card(
        "configs/mixture.yaml", "lara_lam", None, None, dataset_meta=meta
    )
    assert card.data.datasets == ["local/arm", "local/robot", "local/video"]
