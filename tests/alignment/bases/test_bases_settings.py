"""Settings of the aligned policies: adapters, compilation, gradient checkpointing, half precision, what is frozen."""

import json

import pytest
import torch
from safetensors.torch import load_file

from lerobot_lara.publish.export import export_base


def only(*names):
    """Runs a test for some of the bases."""
    return pytest.mark.parametrize("tiny_base", names, indirect=True)


@only("smolvla", "pi05", "groot", "multi_task_dit")
def test_an_adapter_has_the_alignment_head_and_nothing_of_the_lam(tiny_base, tmp_path):
    pytest.importorskip("peft")
    start = tiny_base.train(tmp_path / "start", aligned=False, steps=1).checkpoint
    targets = {
        "groot": {"peft__target_modules": r".*transformer_blocks.*to_q"},
        "multi_task_dit": {"peft__target_modules": r".*transformer_blocks.*mlp\.0"},
    }.get(tiny_base.name, {})
    run = tiny_base.train(tmp_path / "run", steps=3, policy__pretrained_path=start, peft__r=2, **targets)
    adapter = load_file(run.checkpoint / "adapter_model.safetensors")
    assert any("lora_A" in key for key in adapter)
    assert any("alignment_head" in key for key in adapter)
    assert not any(".lam." in key or key.startswith("lam.") for key in adapter)
    assert not (run.checkpoint / "model.safetensors").exists()
    record = json.loads((run.checkpoint / "adapter_config.json").read_text())
    assert record["r"] == 2
    with pytest.raises(ValueError, match="is a low-rank adapter; it must be a whole policy"):
        export_base(run.checkpoint, tmp_path / "plain")


@only("pi05")
def test_gradient_checkpointing_changes_nothing(tiny_base, tmp_path):
    runs = [
        tiny_base.train(tmp_path / str(on), steps=2, policy__gradient_checkpointing=on)
        for on in (False, True)
    ]
    assert [m["loss"] for m in runs[0].metrics] == [m["loss"] for m in runs[1].metrics]
    assert [m["alignment_loss"] for m in runs[0].metrics] == [m["alignment_loss"] for m in runs[1].metrics]


@only("smolvla")
def test_a_compiled_base_is_tapped(tiny_base, tmp_path, monkeypatch):
    original = torch.compile
    given = []

    def keep(function, **options):
        given.append(getattr(function, "__qualname__", ""))
        return original(function, backend="eager")

    monkeypatch.setattr(torch, "compile", keep)
    compiled = tiny_base.train(tmp_path / "compiled", policy__compile_model=True)
    assert "VLAFlowMatching.forward" in given
    given.clear()
    eager = tiny_base.train(tmp_path / "eager")
    assert not given
    assert [m["loss"] for m in compiled.metrics] == [m["loss"] for m in eager.metrics]


@only("pi05", "xvla")
def test_a_base_in_bfloat16_trains(tiny_base, tmp_path):
    run = tiny_base.train(tmp_path / "run", policy__dtype="bfloat16")
    assert all(0 < metrics["alignment_loss"] < 3 for metrics in run.metrics)
    weights = load_file(run.checkpoint / "alignment.safetensors")
    assert all(value.dtype != torch.bfloat16 for value in weights.values() if value.is_floating_point())


@only("pi05", "xvla", "wall_x")
@pytest.mark.parametrize("freeze_lam", [False, True])
def test_the_lam_computes_in_the_half_precision_of_the_base(tiny_base, batch, freeze_lam):
    """Its weights stay in float32, as do the losses; WALL-OSS always computes in bfloat16."""
    half = {} if tiny_base.name == "wall_x" else {"dtype": "bfloat16"}
    assert lam_dtypes(tiny_base.policy(freeze_lam=freeze_lam, **half), batch) == {torch.bfloat16}
    if half:
        assert lam_dtypes(tiny_base.policy(freeze_lam=freeze_lam), batch) == {torch.float32}


def lam_dtypes(policy, batch):
    """What the linear layers of the LAM's inverse dynamics compute in during a training step."""
    seen = set()
    for module in policy.lam.inverse_dynamics.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    loss, log = policy.train()(dict(batch))
    loss.backward()
    assert loss.dtype == torch.float32 and 0 < log["alignment_loss"] < 3
    own = [*policy.lam.parameters(), *policy.alignment.parameters()]
    assert all(parameter.dtype == torch.float32 for parameter in own)
    assert all(p.grad.isfinite().all() for p in policy.alignment.parameters())
    return seen


def test_blocks_of_which_nothing_is_trained_are_refused(tiny_base, batch):
    policy = tiny_base.policy(alignment_layer=1).train()
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(name.startswith(("lam.", "alignment.")))
    with pytest.raises(ValueError, match="`alignment_layer` is 1, but nothing up to that block is trained"):
        policy(dict(batch))
    policy.eval()(dict(batch))


@only("xvla")
def test_an_optimizer_that_goes_by_name_trains_lam_and_alignment(tiny_base, batch):
    policy = tiny_base.policy(alignment_target="joint").train()
    parameters = policy.get_optim_params()
    own = {n: p for n, p in policy.named_parameters() if n.startswith(("lam.", "alignment."))}
    assert {name.split(".")[0] for name in own} == {"lam", "alignment"} and own.keys() < parameters.keys()
    optimizer = policy.config.get_optimizer_preset().build(parameters)
    listed = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert all(listed.count(id(parameter)) == 1 for parameter in own.values())
    before = {name: parameter.detach().clone() for name, parameter in own.items()}
    for _ in range(2):  # what lies before a layer of zeros has no gradient in the first step
        optimizer.zero_grad()
        policy(dict(batch))[0].backward()
        optimizer.step()
    assert [name for name, parameter in own.items() if torch.equal(parameter, before[name])] == []


@only("smolvla", "evo1")
def test_the_lam_has_its_own_learning_rate(tiny_base):
    policy = tiny_base.policy(lam_lr=1e-3)
    groups = policy.get_optim_params()
    of_lam = {id(p) for p in policy.lam.parameters() if p.requires_grad}
    assert {id(p) for p in groups[-1]["params"]} == of_lam and groups[-1]["lr"] == 1e-3
    assert not any(id(p) in of_lam for group in groups[:-1] for p in group["params"])


@only("vla_jepa")
def test_what_the_base_is_told_to_start_anew_may_have_another_shape(tiny_base, tmp_path):
    from safetensors.torch import save_file

    policy = tiny_base.policy()
    policy.save_pretrained(tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    weights = load_file(file)
    name = next(key for key in weights if "action_decoder" in key or "proj_out" in key)
    weights[name] = torch.zeros(weights[name].shape[0] + 1, *weights[name].shape[1:])
    save_file(weights, file, metadata={"format": "pt"})
    config = tiny_base.config(reinit_modules=[name])
    assert type(policy).from_pretrained(tmp_path / "out", config=config).state_dict()[name].shape[0] > 0
    with pytest.raises((ValueError, RuntimeError)):
        type(policy).from_pretrained(tmp_path / "out")
