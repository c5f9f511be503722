"""Rows of per-embodiment weights follow their names: from checkpoints with fewer, other or reordered embodiments."""

import json
from types import SimpleNamespace

import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.policies.factory import make_pre_post_processors
from support.policies import TINY, TINY_LAM, fake_batch, features, make_policy, wake

from lerobot_lara.configuration_lara import LaraConfig
from lerobot_lara.dit.blocks import EmbodimentLinear, EmbodimentMLP
from lerobot_lara.dit.embodiment_loading import rows_by_name
from lerobot_lara.dit.modeling_lara_dit import LaraDiTPolicy
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.modeling_lara import LaraPolicy
from lerobot_lara.publish.export import export_base


def new_dataset(state=3, action=4):
    """What LeRobot's training passes of a dataset."""
    shapes = {"observation.state": (state,), "action": (action,)}
    shaped = {key: {"shape": shape} for key, shape in shapes.items()}
    return SimpleNamespace(features=shaped, episodes={"length": [20]})


def save(path, **options):
    policy = make_policy(embodiments=["robot", "arm"], **options)
    policy.save_pretrained(path)
    return policy.eval()


def load(path, *, state=3, action=4, training=True, policy_class=LaraDiTPolicy, **flags):
    """As LeRobot does: flags change the checkpoint's config, whose actions become the dataset's."""
    cli = [f"--{name}={value}" for name, value in flags.items()]
    config = PreTrainedConfig.from_pretrained(path, cli_overrides=cli)
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (action,))}
    dataset_meta = new_dataset(state, action) if training else None
    torch.manual_seed(7)
    return policy_class.from_pretrained(path, config=config, dataset_meta=dataset_meta)


def tables(policy):
    layers = {n: layer for n, layer in policy.named_modules() if isinstance(layer, EmbodimentLinear)}
    return {f"{n}.{p}": value for n, layer in layers.items() for p, value in layer.named_parameters()}


def test_any_module_takes_rows_by_name():
    class Head(torch.nn.Module):
        def __init__(self, num_embodiments):
            super().__init__()
            self.parts = torch.nn.ModuleDict(
                {"in": EmbodimentMLP(num_embodiments, 3, 4, 5, activation=torch.relu)}
            )
            self.plain = torch.nn.Linear(2, 2)

    saved, head = wake(Head(2)), Head(3)
    fresh = {key: value.clone() for key, value in head.state_dict().items()}
    with rows_by_name(head, ["a", "b"], ["b", "new", "a"]):
        head.load_state_dict(saved.state_dict())
    for key, table in saved.state_dict().items():
        expected = table if key.startswith("plain") else torch.stack([table[1], fresh[key][1], table[0]])
        assert torch.equal(head.state_dict()[key], expected), key
    with pytest.raises(RuntimeError, match="size mismatch"):  # the context leaves nothing behind
        head.load_state_dict(saved.state_dict())


def test_a_table_that_contradicts_the_names_is_not_loaded():
    layer = EmbodimentLinear(3, 4, 5)
    with (
        rows_by_name(layer, ["a", "b"], ["a", "b", "c"]),
        pytest.raises(RuntimeError, match=r"weight has 3 rows for the embodiments \['a', 'b'\]"),
    ):
        layer.load_state_dict(EmbodimentLinear(3, 4, 5).state_dict())


def test_a_checkpoint_grows_for_a_new_embodiment(tmp_path, caplog):
    saved = save(tmp_path / "a")
    grown = load(tmp_path / "a", embodiment="hand", grow_embodiments="true")
    torch.manual_seed(7)
    fresh = LaraDiTPolicy(grown.config)
    assert len(tables(grown)) == 12
    for key, value in grown.state_dict().items():
        before = saved.state_dict()[key]
        if key not in tables(grown):
            assert torch.equal(value, before), key
            continue
        assert torch.equal(value[:2], before), key
        assert torch.equal(value[2], fresh.state_dict()[key][2]), key
        assert not any(torch.equal(value[2], row) for row in before), key
    assert "rows {'robot': 0, 'arm': 1}. New, with fresh weights: rows {'hand': 2}" in caplog.text

    batch, noise = fake_batch(2), torch.randn(2, 8, 4)
    assert not torch.equal(
        grown.predict_action_chunk(batch, noise=noise), saved.predict_action_chunk(batch, noise=noise)
    )
    as_robot = batch | {"observation.embodiment_id": torch.tensor([0, 0])}
    expected = saved.predict_action_chunk(batch, noise=noise)
    assert torch.equal(grown.predict_action_chunk(as_robot, noise=noise), expected)

    grown.save_pretrained(tmp_path / "b")
    with pytest.raises(ValueError, match=r"`embodiment` is 'hnad'"):  # allowed to grow once only
        load(tmp_path / "b", embodiment="hnad")
    assert LaraDiTPolicy.from_pretrained(tmp_path / "b").config.embodiment_id == 2
    again = load(tmp_path / "b", embodiment="robot", training=False)
    assert torch.equal(again.predict_action_chunk(batch, noise=noise), expected)


def test_embodiments_may_also_be_listed(tmp_path):
    """As the start on a mixture does."""
    saved = save(tmp_path)
    grown = load(tmp_path, embodiments='["hand", "arm", "robot"]')
    for key, table in tables(saved).items():
        assert torch.equal(tables(grown)[key][[2, 1]], table), key
    assert grown.config.embodiment_id == 0


def test_a_policy_from_scratch_has_the_embodiment_that_it_acts_for():
    assert make_policy().config.embodiments == ["default"]
    policy = make_policy(embodiment="hand")
    assert (policy.config.embodiments, policy.config.embodiment_id) == (["hand"], 0)


def test_the_name_decides_not_the_position(tmp_path, caplog):
    saved = save(tmp_path, embodiment="arm")
    batch, noise = fake_batch(2), torch.randn(2, 8, 4)
    swapped = load(tmp_path, embodiments='["arm", "robot"]', training=False)
    assert swapped.config.embodiment_id == 0
    assert torch.equal(
        swapped.predict_action_chunk(batch, noise=noise), saved.predict_action_chunk(batch, noise=noise)
    )
    assert "embodiments" not in caplog.text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"embodiment": "hand"},
            r"`embodiment` is 'hand'; the policy knows \['robot', 'arm'\].*--policy.grow_embodiments=true",
        ),
        (
            {"embodiments": '["hand"]', "embodiment": "hand"},
            r"""has weights for \['robot', 'arm'\], which would be lost.*='\["robot", "arm", "hand"\]'""",
        ),
        ({"embodiments": '["robot"]'}, r"would be lost"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_unknown_and_lost_names_are_refused(tmp_path, flags, message, training):
    save(tmp_path)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, training=training, **flags)


def test_nothing_acts_for_an_embodiment_without_weights(tmp_path):
    save(tmp_path)
    with pytest.raises(ValueError, match=r"cannot act for \['hand'\].*weights for \['robot', 'arm'\] only"):
        load(tmp_path, embodiments='["robot", "arm", "hand"]', training=False)
    with pytest.raises(ValueError, match=r"`embodiment` is 'hand'; the policy knows \['robot', 'arm'\]"):
        load(tmp_path, embodiment="hand", grow_embodiments="true", training=False)


def test_a_checkpoint_without_names_is_refused(tmp_path):
    save(tmp_path)
    config = PreTrainedConfig.from_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["embodiments"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"names no `embodiments`: it is of another type \('lara_dit'\)"):
        LaraDiTPolicy.from_pretrained(tmp_path, config=config)


def test_robots_of_other_widths_fit_into_the_padding(tmp_path):
    save(tmp_path, max_state_dim=5, max_action_dim=6)
    for state, action in ((2, 3), (5, 6)):
        policy = load(tmp_path, state=state, action=action, embodiment="hand", grow_embodiments="true")
        batch = fake_batch(state=state, action=action)
        assert policy.train()(batch)[0] > 0
        assert policy.predict_action_chunk(batch).shape == (4, 8, action)


@pytest.mark.parametrize(
    ("saved", "loaded", "message"),
    [
        (
            {"max_action_dim": 6},
            {"action": 7},
            r"7 action dimensions, but .* room for 6 .*--policy.max_action_dim=7",
        ),
        ({"max_action_dim": 6}, {"action": 7, "max_action_dim": 7}, r"room for 6"),
        (
            {"max_state_dim": 5},
            {"state": 6},
            r"6 state dimensions, but .* room for 5 .*--policy.max_state_dim=6",
        ),
        ({}, {"action": 7}, r"7 action dimensions, but .* room for 4 \(`max_action_dim` was None\)"),
        ({}, {"state": 6}, r"6 state dimensions, but .* room for 3 \(`max_state_dim` was None\)"),
        ({}, {"action": 2}, r"`max_action_dim` is None, but .* pads to 4 .*--policy.max_action_dim=4"),
        (
            {"max_state_dim": 5},
            {"max_state_dim": 8},
            r"`max_state_dim` is 8, but .* pads to 5 .*--policy.max_state_dim=5",
        ),
    ],
)
def test_widths_do_not_grow(tmp_path, saved, loaded, message):
    save(tmp_path, **saved)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, **loaded)


def test_a_narrower_robot_needs_the_checkpoints_width(tmp_path):
    save(tmp_path)
    policy = load(tmp_path, action=2, state=2, max_action_dim=4)
    assert policy.train()(fake_batch(state=2, action=2))[0] > 0


def test_lara_grows_and_exports(tmp_path):
    LatentActionModel.from_config(**TINY_LAM).save_pretrained(tmp_path / "lam")
    options = {"lam_path": str(tmp_path / "lam"), "frame_gap": 4, "embodiments": ["robot", "arm"]}
    saved = wake(LaraPolicy(LaraConfig(**TINY | features() | options)))
    saved.save_pretrained(tmp_path / "a")
    grown = load(tmp_path / "a", policy_class=LaraPolicy, embodiment="hand", grow_embodiments="true")
    before, after = saved.state_dict(), grown.state_dict()
    assert before.keys() == after.keys() and any(key.startswith("lam.") for key in after)
    for key, value in after.items():
        assert torch.equal(value[:2] if key in tables(grown) else value, before[key]), key
    assert {len(table) for table in tables(grown).values()} == {3}

    grown.save_pretrained(tmp_path / "b")
    for pipeline in make_pre_post_processors(grown.config):
        pipeline.save_pretrained(tmp_path / "b")
    export_base(tmp_path / "b", tmp_path / "dit")
    dit = LaraDiTPolicy.from_pretrained(tmp_path / "dit")
    assert (dit.config.embodiments, dit.config.embodiment) == (["robot", "arm", "hand"], "hand")
    for key, table in tables(grown).items():
        assert torch.equal(tables(dit)[key], table), key


def test_growth_is_asked_for_anew_each_time(tmp_path):
    """A flag kept from a first training would let a misspelled name in later."""
    save(tmp_path / "a", grow_embodiments=True)
    assert json.loads((tmp_path / "a" / "config.json").read_text())["grow_embodiments"] is False
    with pytest.raises(ValueError, match="`embodiment` is 'amr'"):
        load(tmp_path / "a", embodiment="amr")


def test_acting_for_another_robot_than_trained_for_is_said(tmp_path, caplog):
    """The row of weights follows the name; the normalization in the checkpoint does not."""
    save(tmp_path / "a")
    load(tmp_path / "a", training=False, embodiment="arm")
    assert "acts for 'arm' with the normalization of 'robot'" in caplog.text
    caplog.clear()
    load(tmp_path / "a", training=False, embodiment="robot")
    assert not caplog.text


def test_a_new_alignment_takes_over_the_names_of_the_policy(tmp_path):
    torch.manual_seed(0)
    LatentActionModel.from_config(**TINY_LAM).save_pretrained(tmp_path / "lam")
    saved = save(tmp_path / "dit", embodiment="arm")
    config = LaraConfig(**TINY | features(), lam_path=str(tmp_path / "lam"), frame_gap=4)
    policy = LaraPolicy.from_pretrained(tmp_path / "dit", config=config, dataset_meta=new_dataset())
    assert policy.config.embodiments == ["robot", "arm"] and policy.config.embodiment == "arm"
    own = tables(policy)
    assert all(torch.equal(own[key], value) for key, value in tables(saved).items())
