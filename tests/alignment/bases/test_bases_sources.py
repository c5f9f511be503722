"""What each policy of LeRobot can be aligned to without a latent action model that runs: labels, and two controls."""

import pytest
from safetensors import safe_open
from support.helpers import run_train

from lerobot_lara.labeling.plan import LabelOptions
from lerobot_lara.labeling.run import label
from lerobot_lara.lam import artifact


@pytest.fixture(scope="session")
def labels(tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels") / "labels"
    label(tiny_base.lam, str(tiny_base.data), folder, options=LabelOptions(dtype="float32", no_motion=True))
    return folder


def values(run, name):
    return [metrics[name] for metrics in run.metrics]


def test_labels_align_as_the_frozen_model_does(tiny_base, labels, tmp_path):
    """Same seed, same frames: equal losses, though no model is built and no second frame decoded."""
    live = tiny_base.train(tmp_path / "live", policy__freeze_lam=True)
    run = tiny_base.train(tmp_path / "labels", policy__lam_path=None, policy__lam_labels=labels)
    # WALL-OSS computes in bfloat16, and its LAM with it; labels are more precise than that, and the policies part.
    half = tiny_base.name == "wall_x"
    for name in ("flow_loss", "alignment_loss", "latent_effective_rank"):
        found, expected = values(run, name), values(live, name)
        if half:
            assert found[0] == pytest.approx(expected[0], rel=1e-2), name
        else:
            assert found == pytest.approx(expected, rel=1e-3), name
    assert not (run.checkpoint / "lam").exists()
    with safe_open(run.checkpoint / "alignment.safetensors", "pt") as opened:
        assert opened.metadata()["lam_origin"] == artifact.digest(tiny_base.lam)
    resumed = run_train(
        config_path=run.checkpoint / "train_config.json", resume=True, steps=4, output_dir=None
    )
    assert len(resumed.metrics) == 1


@pytest.mark.parametrize("source", ["actions", "features"])
def test_controls_need_no_latent_action(tiny_base, source, tmp_path):
    lam_path = tiny_base.lam if source == "features" else None
    run = tiny_base.train(tmp_path / "run", policy__alignment_source=source, policy__lam_path=lam_path)
    assert all(value > 0 for value in values(run, "alignment_loss"))
    assert not (run.checkpoint / "lam").exists()
