"""Processors of a checkpoint: LeRobot calls whatever class they name, so they are checked first."""

import json
import shutil

import pytest
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import make_pre_post_processors
from support.helpers import run_eval, run_train
from support.policies import make_policy

from lerobot_lara.cli import main
from lerobot_lara.dit.modeling_lara_dit import LaraDiTPolicy
from lerobot_lara.policy.checkpoint_files import Checkpoint
from lerobot_lara.policy.processor_files import PROCESSOR_FILES, check_processors


@pytest.fixture
def checkpoint(tmp_path):
    """A `lara_dit` with its processors."""
    policy, folder = make_policy(), tmp_path / "pretrained_model"
    policy.save_pretrained(folder)
    for pipeline in make_pre_post_processors(policy.config):
        pipeline.save_pretrained(folder)
    return folder


def add_step(folder, step, name="policy_preprocessor.json"):
    file = folder / name
    content = json.loads(file.read_text())
    content["steps"].append(step)
    file.write_text(json.dumps(content))


def command_that_leaves(mark):
    return {"class": "subprocess.Popen", "config": {"args": ["touch", str(mark)]}}


def test_own_processors_pass(checkpoint):
    check_processors(Checkpoint(str(checkpoint)))
    LaraDiTPolicy.from_pretrained(checkpoint)


def test_a_checkpoint_without_processors_passes(checkpoint):
    for name in PROCESSOR_FILES:
        (checkpoint / name).unlink()
    check_processors(Checkpoint(str(checkpoint)))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"class": "subprocess.Popen", "config": {"args": ["true"]}}, "names the class 'subprocess.Popen'"),
        ({"class": "lerobot.processor.pipeline.Path"}, "names the class 'lerobot.processor.pipeline.Path'"),
        ({"class": "lerobot.utils.nowhere.Step"}, "names the class"),
        ({"class": "lerobot_evil.Step"}, "names the class 'lerobot_evil.Step'"),
        ({"class": "Popen"}, "names the class 'Popen'"),
        ({"class": 3}, "names the class 3"),
        ({}, "names the class None"),
        ({"registry_name": "no_such_step"}, "has the `registry_name` 'no_such_step'"),
        ({"registry_name": ["a"]}, "has the `registry_name`"),
        ({"registry_name": "device_processor", "config": []}, r"has the `config` \[\]"),
        (
            {"registry_name": "device_processor", "state_file": "../../secret.safetensors"},
            "has the `state_file`",
        ),
        ({"registry_name": "device_processor", "state_file": "/etc/passwd"}, "has the `state_file`"),
        ({"registry_name": "device_processor", "state_file": 3}, "has the `state_file` 3"),
        (
            {"registry_name": "action_tokenizer_processor", "config": {"action_tokenizer_name": "evil/code"}},
            "would run code of a tokenizer",
        ),
        (
            {"registry_name": "device_processor", "config": {"trust_remote_code": True}},
            "would run code of a tokenizer",
        ),
        ("text", "is 'text'; it must be an object"),
    ],
)
@pytest.mark.parametrize("name", PROCESSOR_FILES)
def test_a_step_that_could_run_code_is_refused(checkpoint, step, message, name):
    add_step(checkpoint, step, name)
    with pytest.raises(ValueError, match=rf"{name}: step \d+ .*{message}"):
        LaraDiTPolicy.from_pretrained(checkpoint)


@pytest.mark.parametrize(
    "content", ["", "[]", "null", '{"steps": 3}', "{}", "[" * 100_000, '{"steps": [NaN]}']
)
def test_a_damaged_file_is_refused(checkpoint, content):
    (checkpoint / "policy_postprocessor.json").write_text(content)
    with pytest.raises(ValueError, match=r"policy_postprocessor.json"):
        LaraDiTPolicy.from_pretrained(checkpoint)


def test_a_registered_step_and_a_class_of_lerobot_pass(checkpoint):
    add_step(checkpoint, {"registry_name": "device_processor", "config": {"device": "cpu"}})
    add_step(checkpoint, {"class": "lerobot.processor.IdentityProcessorStep"})
    LaraDiTPolicy.from_pretrained(checkpoint)


def test_the_processors_of_an_adapter_are_checked_too(checkpoint, tmp_path):
    """LeRobot takes the weights of the base that an adapter names, and the processors of the adapter."""
    adapter = tmp_path / "adapter"
    shutil.copytree(checkpoint, adapter)
    config = PreTrainedConfig.from_pretrained(checkpoint)
    config.pretrained_path = adapter
    LaraDiTPolicy.from_pretrained(checkpoint, config=config)
    add_step(adapter, command_that_leaves(tmp_path / "mark"))
    with pytest.raises(ValueError, match=r"adapter/policy_preprocessor\.json: step \d+ names the class"):
        LaraDiTPolicy.from_pretrained(checkpoint, config=config)


# The ways in


@pytest.fixture
def trained(tiny_dataset, tmp_path):
    return run_train(
        policy__type="lara_dit",
        policy__image_size=32,
        policy__text_encoder="null",
        policy__width=32,
        policy__num_layers=1,
        policy__num_heads=2,
        policy__vision_encoder_width=16,
        policy__chunk_size=8,
        dataset__root=tiny_dataset(),
        output_dir=tmp_path / "run",
        steps=1,
    )


def test_no_command_runs_code_of_a_checkpoint(trained, tiny_dataset, tmp_path):
    folder, mark = trained.checkpoint, tmp_path / "code_was_run"
    add_step(folder, command_that_leaves(mark))
    refused = pytest.raises(ValueError, match=r"names the class 'subprocess\.Popen'")
    root = tiny_dataset()
    with refused:
        run_train(policy__path=folder, dataset__root=root, output_dir=tmp_path / "from_path", steps=1)
    with refused:
        run_train(config_path=folder / "train_config.json", resume=True, output_dir=None, steps=2)
    with refused:
        run_eval(policy__path=folder, output_dir=tmp_path / "eval")
    assert not mark.exists()


def test_exports_refuse_it_too(tmp_path, saved, capsys):
    lara, mark = saved / "lara", tmp_path / "code_was_run"
    (lara / "policy_preprocessor.json").write_text(json.dumps({"steps": [command_that_leaves(mark)]}))
    assert main(["export-base", str(lara), str(tmp_path / "plain")]) != 0
    assert "names the class 'subprocess.Popen'" in capsys.readouterr().err
    assert not mark.exists() and not (tmp_path / "plain").exists()
