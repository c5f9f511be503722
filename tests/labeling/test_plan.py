"""What is planned: which model, camera and device, and options that cannot be fulfilled are refused before the work."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.policies import make_lara
from support.tiny_datasets import make_tiny_dataset

from lerobot_lara.data.latent_labels.labels import LatentLabels
from lerobot_lara.labeling import plan as module
from lerobot_lara.labeling.plan import LabelOptions, choose_camera
from lerobot_lara.labeling.run import label
from lerobot_lara.lam.latent_action_model import LatentActionModel

from .test_label import save_lam


@pytest.fixture(scope="module")
def lam(tmp_path_factory):
    return save_lam(tmp_path_factory.mktemp("lam"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "images"
    return make_tiny_dataset(folder, num_episodes=2, num_frames=10, action=False, state=False)


def run(lam, root, out, **options):
    return label(str(lam), str(root), out, options=LabelOptions(**options))[0]


def test_the_model_of_an_aligned_checkpoint_gives_the_same_labels(lam, root, tmp_path):
    make_lara(lam, awake=False).save_pretrained(tmp_path / "lara")
    alone, aligned = (
        LatentLabels(run(path, root, tmp_path / f"out_{name}").folder)
        for name, path in (("lam", lam), ("lara", tmp_path / "lara"))
    )
    np.testing.assert_array_equal(aligned.column("latent_action"), alone.column("latent_action"))
    assert aligned.manifest.lam["settings_sha256"] == alone.manifest.lam["settings_sha256"]
    assert aligned.manifest.lam["name"] == "lara"


def test_a_training_run_is_not_a_checkpoint(lam, root, tmp_path):
    last = tmp_path / "run" / "checkpoints" / "last" / "pretrained_model"
    LatentActionModel.from_pretrained(lam).save_pretrained(last)
    with pytest.raises(
        ValueError, match=r"run is the folder of a training run.*checkpoints/last/pretrained_model"
    ):
        run(tmp_path / "run", root, tmp_path / "out")
    assert run(last, root, tmp_path / "out").manifest.lam["name"] == "run"


def test_datasets_without_a_color_camera_are_refused(lam, tmp_path):
    blind = make_tiny_dataset(tmp_path / "blind", num_frames=10, cameras=())
    with pytest.raises(ValueError, match="has no camera that records color"):
        run(lam, blind, tmp_path / "out")


@pytest.mark.parametrize(
    ("cameras", "named", "trained_on", "chosen"),
    [
        (["a"], None, None, "a"),
        (["a"], None, "b", "a"),
        (["a", "b"], None, "b", "b"),
        (["a", "b"], "a", "b", "a"),
        (["a", "b"], None, "c", None),
        (["a", "b"], None, None, None),
        (["a"], "b", "a", None),
    ],
)
def test_the_camera_is_the_named_one_else_the_models_else_the_only_one(cameras, named, trained_on, chosen):
    source = SimpleNamespace(name="data", cameras={camera: camera for camera in cameras})
    if chosen is not None:
        assert choose_camera(source, named, trained_on) == chosen
        return
    with pytest.raises(ValueError, match=r"must be one of \['a'.*cameras of data. Pass --camera"):
        choose_camera(source, named, trained_on)


def test_a_device_that_is_not_there_is_named(lam, root, tmp_path):
    for device in ("cuda", "gpu"):
        with pytest.raises(ValueError, match=rf"`device` is '{device}', which cannot be used .*--device=cpu"):
            run(lam, root, tmp_path / "out", device=device)
    assert run(lam, root, tmp_path / "out", device="cpu").manifest.valid == 12, "another device goes on"


def test_a_package_that_is_needed_at_the_end_is_missed_at_the_start(lam, root, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package scikit-learn.*extra `label`"):
        run(lam, root, tmp_path / "out", codebook_size=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dtype", "int8"),
        ("precision", "float8"),
        ("augmentations", -1),
        ("random_shift", -1),
        ("seed", -1),
        ("shard_frames", 0),
        ("window", 0),
        ("codebook_size", 1),
        ("codebook_size", 40_000),
    ],
)
def test_options_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` is {value!r}; it must be"):
        LabelOptions(**{name: value})


def test_a_large_codebook_is_kept(root, tmp_path):
    """16 bits hold 32768 codes; FSQ of six dimensions has more."""
    lam = save_lam(tmp_path / "lam", quantizer="fsq", fsq_levels=(41, 41, 41))
    labels = LatentLabels(run(lam, root, tmp_path / "out").folder)
    assert labels.manifest.codebook_size == 41**3
    model = LatentActionModel.from_pretrained(lam)
    codes = torch.from_numpy(np.stack([labels.code_indices(row) for row in np.flatnonzero(labels.valid)]))
    assert codes.max() > np.iinfo(np.int16).max
    latents = np.stack([labels.latent_action(row) for row in np.flatnonzero(labels.valid)])
    quantized, expected, _ = model.quantizer(torch.from_numpy(latents).unflatten(1, (2, 3)))
    decoded = model.indices_to_latent(codes)
    assert (decoded - quantized).abs().max() < 0.1, "but for rounding of the stored latents"
    assert (codes == expected).float().mean() > 0.9


def test_tables_that_contradict_the_metadata_are_refused_before_the_work(lam, tmp_path):
    root = make_tiny_dataset(tmp_path / "data", num_episodes=2, num_frames=10, action=False, state=False)
    file = min((root / "data").rglob("*.parquet"))
    table = pq.read_table(file)
    number = table.schema.names.index("episode_index")
    episodes = pa.array([0] * 9 + [1] * 11, type=pa.int64())
    pq.write_table(table.set_column(number, table.schema.field(number), episodes), file)
    with pytest.raises(ValueError, match="The tables of data hold other episodes"):
        run(lam, root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_path_of_this_machine_is_in_finished_labels(lam, root, tmp_path):
    out = run(lam, root, tmp_path / "out").folder
    content = json.dumps(json.loads((out / "meta/latent_labels.json").read_text()))
    assert str(tmp_path) not in content and str(root) not in content and lam not in content
    assert not (out / "plan.json").exists()
