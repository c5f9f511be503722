"""Mixtures through LeRobot's real `lerobot-train`."""

import copy
import inspect
import json
import pickle
import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lerobot import datasets
from lerobot.configs import PreTrainedConfig
from lerobot.datasets import EpisodeAwareSampler, compute_sampler_state, factory
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.scripts import lerobot_train
from support import policies
from support.helpers import run_train

from lerobot_lara.configuration_lara import LaraConfig
from lerobot_lara.data.mixture import lerobot_compatibility, lerobot_hook
from lerobot_lara.data.mixture.build import build_mixture
from lerobot_lara.data.mixture.config import load_mixture
from lerobot_lara.data.mixture.dataset import MixtureDataset
from lerobot_lara.data.mixture.run_policy import add_embodiments
from lerobot_lara.lam.latent_action_model import LatentActionModel
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
    assert json.loads((run.checkpoint / "mixture.json").read_text())["reference"] == "robot"
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

    # The policy acts in the dimensions of the reference dataset, from LeRobot's own processors.
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


def test_a_latent_action_model_may_continue_with_other_robots(write_mixture, lam, tmp_path):
    other = write_mixture(ROBOT | {"embodiment": "so100"}, ARM, VIDEO)
    flags = {"policy__path": lam, "dataset__repo_id": other, "steps": 1, "policy__push_to_hub": False}
    assert run_train(**flags, output_dir=tmp_path / "on").metrics


def test_renaming_is_refused(write_mixture, lam, tmp_path):
    with pytest.raises(ValueError, match=r"`rename_map` is .*it would not rename the masks"):
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
    with pytest.raises(
        ValueError, match=r"`instruction` of entry 'video' was None and is now something else"
    ):
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
        ({"dataset__root": "somewhere"}, r"`dataset.root` is 'somewhere'; it must not be set for a mixture"),
        ({"dataset__episodes": "[0]"}, r"`dataset.episodes` is \[0\]; it must not be set for a mixture"),
        ({"dataset__streaming": True}, r"`dataset.streaming` is true; it must be false for a mixture"),
    ],
)
def test_flags_of_single_datasets_are_refused(write_mixture, tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        run_train(**TINY_LAM, **flags, dataset__repo_id=write_mixture(), output_dir=tmp_path / "out")


def test_a_missing_mixture_file(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.yaml does not exist"):
        run_train(**TINY_LAM, dataset__repo_id=tmp_path / "absent.yaml", output_dir=tmp_path / "out")


def test_installing_again_wraps_once():
    before = factory.make_train_eval_datasets
    lerobot_hook.install()
    assert factory.make_train_eval_datasets.__wrapped__ is before.__wrapped__
    for module in (lerobot_train, datasets):
        assert module.make_train_eval_datasets is factory.make_train_eval_datasets
    assert datasets.make_dataset is factory.make_dataset


# Another LeRobot than the one that mixtures are made for


def run_config(repo_id):
    """As much of a run's configuration as the wrapper looks at."""
    return SimpleNamespace(dataset=SimpleNamespace(repo_id=repo_id), policy=None, resume=False)


def two_arguments(cfg, seed=0):
    return cfg, seed


@pytest.fixture
def install_in(monkeypatch, caplog):
    """Returns `install_in(**functions)`: installs the hook in a LeRobot with other functions, which logs nothing."""

    def install_in(**functions):
        for name, function in functions.items():
            for module in (factory, datasets, lerobot_train):
                if hasattr(module, name):
                    (
                        monkeypatch.delattr
                        if function is None
                        else partial(monkeypatch.setattr, value=function)
                    )(module, name)
        lerobot_hook.install()
        assert caplog.records == []

    return install_in


def test_the_installed_lerobot_is_the_one_for_mixtures():
    assert lerobot_compatibility.train_modules() == [lerobot_train]
    assert lerobot_compatibility.find_differences() == []


def test_another_signature_passes_single_datasets_through_and_refuses_mixtures(
    install_in, write_mixture, tmp_path, caplog
):
    install_in(make_train_eval_datasets=two_arguments)
    for make in (factory.make_train_eval_datasets, lerobot_train.make_train_eval_datasets):
        single = run_config("org/single")
        assert make(single, seed=3) == (single, 3)
        assert make(cfg=single) == (single, 0)
        assert make(None, 5) == (None, 5)
        assert inspect.signature(make) == inspect.signature(two_arguments)
    assert caplog.records == []
    message = (
        r"`dataset.repo_id` is .*mixture.yaml, .* LeRobot [\d.]+ is installed and differs: "
        r"`make_train_eval_datasets` takes \(cfg, seed\), not \(cfg\)\. Install lerobot==0.6.1"
    )
    with pytest.raises(ValueError, match=message):
        run_train(**TINY_LAM, dataset__repo_id=write_mixture(), output_dir=tmp_path / "out")
    with pytest.raises(ValueError, match=message):
        factory.make_train_eval_datasets(seed=1, cfg=run_config("some/mixture.yaml"))


def test_without_lerobots_function_mixtures_are_refused(install_in):
    install_in(make_train_eval_datasets=None, make_dataset=two_arguments)
    single = run_config("org/single")
    assert factory.make_dataset(single, 2) == (single, 2)
    with pytest.raises(
        ValueError, match=r"factory` has no `make_train_eval_datasets`\. Install lerobot==0.6.1"
    ):
        factory.make_dataset(run_config("mixture.yml"))


def test_what_makes_single_datasets_refuses_mixtures():
    with pytest.raises(ValueError, match=r"mixture.yml, a mixture file; it must be a single dataset here"):
        factory.make_dataset(run_config("mixture.yml"))


class NothingDropped(EpisodeAwareSampler):
    def __init__(self, *args, drop_n_last_frames=0, **kwargs):
        super().__init__(*args, **kwargs)


class Repeating(EpisodeAwareSampler):
    def _frame_index(self, position):
        return super()._frame_index(position) // 2 * 2


class Unseeded(EpisodeAwareSampler):
    def _epoch_generator(self, epoch):
        return torch.Generator().manual_seed(torch.seed() % 2**32)


class Unresumable(EpisodeAwareSampler):
    def load_state_dict(self, state):
        self.set_epoch(state["epoch"])


class OtherArguments(EpisodeAwareSampler):
    def __init__(self, starts, ends, *, shuffle=False):
        super().__init__(starts, ends, shuffle=shuffle)


def per_process_batches(step, num_frames, batch_size, num_processes):
    return compute_sampler_state(step, num_frames, batch_size, 1)


@pytest.mark.parametrize(
    ("name", "other", "difference"),
    [
        ("EpisodeAwareSampler", None, "`lerobot.scripts.lerobot_train` has no `EpisodeAwareSampler`"),
        ("EpisodeAwareSampler", NothingDropped, "does not yield each of the 26 draws of an epoch once"),
        ("EpisodeAwareSampler", Repeating, "does not yield each of the 26 draws of an epoch once"),
        ("EpisodeAwareSampler", Unseeded, "does not repeat an order of draws from the same seed"),
        ("EpisodeAwareSampler", Unresumable, "does not resume the order of draws"),
        ("EpisodeAwareSampler", OtherArguments, "fails on a mixture (TypeError: "),
        ("compute_sampler_state", None, "`lerobot.scripts.lerobot_train` has no `compute_sampler_state`"),
        (
            "compute_sampler_state",
            per_process_batches,
            "does not resume the order of draws where a run stopped",
        ),
    ],
)
def test_another_sampler_refuses_mixtures(install_in, write_mixture, tmp_path, name, other, difference):
    install_in(**{name: other})
    (found,) = lerobot_compatibility.find_differences()
    assert difference in found
    with pytest.raises(ValueError, match=re.escape(found) + r"\. Install lerobot==0.6.1"):
        lerobot_train.make_train_eval_datasets(run_config(str(write_mixture())))


def test_adding_embodiments_leaves_the_configuration_as_it_was(write_mixture):
    policy = lara_config(embodiments=[], pretrained_revision="v1", rtc_config=RTCConfig(execution_horizon=3))
    policy.noted = "by LeRobot"
    before = copy.deepcopy(vars(policy))
    changed = add_embodiments(policy, load_mixture(write_mixture(ARM, ROBOT)))
    assert vars(policy) == before
    assert (changed.embodiments, changed.embodiment) == (["arm", "default"], "arm")
    assert vars(changed) == before | {"embodiments": ["arm", "default"], "embodiment": "arm"}


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


def test_a_resumed_run_keeps_the_lam_of_its_checkpoint(tmp_path):
    """The path that the run once started from may be gone, or hold another model."""
    torch.manual_seed(0)
    lam_path = tmp_path / "lam"
    LatentActionModel.from_config(**policies.TINY_LAM).save_pretrained(lam_path)
    policies.make_lara(str(lam_path)).save_pretrained(tmp_path / "out")
    policy = LaraConfig(
        **policies.TINY | policies.features(),
        lam_path=str(tmp_path / "gone"),
        frame_gap=4,
        pretrained_path=tmp_path / "out",
    )
    cfg = SimpleNamespace(policy=policy, resume=True, dataset=SimpleNamespace(repo_id="you/demos"))
    lerobot_hook.prepare_policy(cfg)
    assert cfg.policy.lam_path is None and policy.lam_path == str(tmp_path / "gone")
    cfg = SimpleNamespace(policy=policy, resume=False, dataset=SimpleNamespace(repo_id="you/demos"))
    lerobot_hook.prepare_policy(cfg)
    assert cfg.policy is policy, "a new run may start a new alignment"


def test_a_new_alignment_records_the_embodiments_of_the_policy_that_it_starts_from(tmp_path):
    """Else the run could not be resumed: its record would name others than its checkpoint."""
    policies.make_policy(embodiments=["arm"], embodiment="arm").save_pretrained(tmp_path / "dit")
    policy = LaraConfig(
        **policies.TINY | policies.features(), lam_path="you/lam", pretrained_path=tmp_path / "dit"
    )
    cfg = SimpleNamespace(policy=policy, resume=False, dataset=SimpleNamespace(repo_id="you/demos"))
    lerobot_hook.prepare_policy(cfg)
    assert (cfg.policy.embodiments, cfg.policy.embodiment) == (["arm"], "arm")


def test_a_run_that_grows_records_the_embodiment_that_it_adds(tmp_path):
    """LeRobot writes what it resumes from before the policy is built."""
    policies.make_policy(embodiments=["robot", "arm"]).save_pretrained(tmp_path / "out")
    policy = PreTrainedConfig.from_pretrained(
        tmp_path / "out", cli_overrides=["--embodiment=hand", "--grow_embodiments=true"]
    )
    policy.pretrained_path = tmp_path / "out"
    cfg = SimpleNamespace(policy=policy, resume=False, dataset=SimpleNamespace(repo_id="you/demos"))
    lerobot_hook.prepare_policy(cfg)
    assert (cfg.policy.embodiments, cfg.policy.embodiment) == (["robot", "arm", "hand"], "hand")
    assert not cfg.policy.grow_embodiments and policy.embodiments == ["robot", "arm"]


def test_a_resumed_run_does_not_change_what_is_trained(tmp_path):
    torch.manual_seed(0)
    LatentActionModel.from_config(**policies.TINY_LAM).save_pretrained(tmp_path / "lam")
    policies.make_lara(str(tmp_path / "lam")).save_pretrained(tmp_path / "out")
    policy = PreTrainedConfig.from_pretrained(tmp_path / "out", cli_overrides=["--freeze_lam=true"])
    policy.pretrained_path = tmp_path / "out"
    cfg = SimpleNamespace(policy=policy, resume=True, dataset=SimpleNamespace(repo_id="you/demos"))
    with pytest.raises(ValueError, match=r"`freeze_lam` is True; it must be False.*--policy\.path"):
        lerobot_hook.prepare_policy(cfg)
