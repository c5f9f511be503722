"""`lara label`: what is stored is what the model infers from pairs; each frame is read once; bad input is refused."""

import errno
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from lerobot.datasets.dataset_tools import add_features
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from support.policies import TINY_LAM, make_policy
from support.tiny_datasets import REPO_ID, make_tiny_dataset

from lerobot_lara.cli import main
from lerobot_lara.data.latent_labels.fingerprint import find_difference
from lerobot_lara.data.latent_labels.labels import LatentLabels
from lerobot_lara.data.latent_labels.manifest import LabelManifest
from lerobot_lara.data.mixture.reader import ColumnReader
from lerobot_lara.files import atomic
from lerobot_lara.labeling import shards
from lerobot_lara.labeling.plan import LabelOptions, cut_into_shards
from lerobot_lara.labeling.run import label
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.training.augmentation import random_shift

LENGTHS = [14, 4, 5, 11]


def save_lam(folder, seed=0, **changes):
    torch.manual_seed(seed)
    LatentActionModel.from_config(**TINY_LAM | changes).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def lam(tmp_path_factory):
    return save_lam(tmp_path_factory.mktemp("lam"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "videos"
    return make_tiny_dataset(
        folder, num_episodes=4, num_frames=LENGTHS, action=False, state=False, storage="video"
    )


def run(lam, root, out, **options):
    return label(lam, str(root), out, options=LabelOptions(**options))[0]


def pairs_of(root):
    """Pairs of LeRobot's own dataset, four frames apart, and which of them cross no end."""
    dataset = LeRobotDataset(REPO_ID, root=root, delta_timestamps={"observation.image": [0, 0.4]})
    samples = [dataset[index] for index in range(len(dataset))]
    frames = torch.stack([sample["observation.image"] for sample in samples])
    valid = torch.stack([~sample["observation.image_is_pad"].any() for sample in samples])
    return frames, valid.numpy()


@pytest.mark.parametrize("window", [1, 3, 64])
def test_labels_are_what_the_model_infers_from_lerobots_pairs(lam, root, tmp_path, window):
    labels = LatentLabels(run(lam, root, tmp_path / "labels", dtype="float32", window=window).folder)
    frames, valid = pairs_of(root)
    assert (labels.valid == valid).all() and labels.index.tolist() == list(range(sum(LENGTHS)))
    with torch.no_grad():
        expected = LatentActionModel.from_pretrained(lam).encode(frames).latent_action.flatten(1).numpy()
    found = labels.column("latent_action")[:, 0]
    np.testing.assert_allclose(found[valid], expected[valid], atol=1e-5)
    assert not found[~valid].any()
    assert labels.manifest.valid == valid.sum() and labels.manifest.invalid == (~valid).sum()


def test_half_precision_keeps_what_matters(lam, root, tmp_path):
    exact = LatentLabels(run(lam, root, tmp_path / "exact", dtype="float32").folder)
    stored = LatentLabels(run(lam, root, tmp_path / "half").folder)
    assert stored.column("latent_action").dtype == np.float16
    for row in np.flatnonzero(exact.valid):
        np.testing.assert_allclose(stored.latent_action(row), exact.latent_action(row), atol=2e-3)


def test_a_model_may_compute_in_lower_precision(lam, root, tmp_path):
    exact = LatentLabels(run(lam, root, tmp_path / "exact", dtype="float32", no_motion=True).folder)
    rough = LatentLabels(
        run(lam, root, tmp_path / "rough", dtype="float32", no_motion=True, precision="bfloat16").folder
    )
    assert rough.manifest.precision == "bfloat16" and exact.manifest.precision == "float32"
    for name in ("latent_action", "latent_no_motion"):
        error = np.abs(rough.column(name) - exact.column(name))[exact.valid]
        assert 1e-4 < error.max() < 0.05 * exact.column(name)[exact.valid].std()
    with pytest.raises(ValueError, match="`precision` is 'tf32', which 'cpu' does not have"):
        run(lam, root, tmp_path / "tf32", precision="tf32")


@pytest.mark.parametrize(
    "quantizer", [{"quantizer": "vq", "codebook_size": 7}, {"quantizer": "fsq", "fsq_levels": (3, 3, 3)}]
)
def test_codes_are_those_of_the_models_quantizer(root, tmp_path, quantizer):
    lam = save_lam(tmp_path / "lam", **quantizer)
    labels = LatentLabels(run(lam, root, tmp_path / "labels").folder)
    frames, valid = pairs_of(root)
    with torch.no_grad():
        expected = LatentActionModel.from_pretrained(lam).encode(frames).code_indices.numpy()
    codes = labels.column("code_indices")[:, 0]
    assert (codes[valid] == expected[valid]).all() and (codes[~valid] == -1).all()
    assert labels.manifest.codebook_size == {"vq": 7, "fsq": 27}[quantizer["quantizer"]]


def test_every_frame_is_decoded_once_and_encoded_once(lam, root, tmp_path, monkeypatch):
    decoded, encoded = [], []
    images = ColumnReader.images
    monkeypatch.setattr(
        ColumnReader,
        "images",
        lambda self, key, ep, rows: decoded.extend(rows) or images(self, key, ep, rows),
    )
    load = shards.load_lam

    def counting(*args):
        model = load(*args)
        model.frame_encoder.register_forward_pre_hook(lambda module, args: encoded.append(len(args[0])))
        return model

    counting.cache_clear = load.cache_clear
    monkeypatch.setattr(shards, "load_lam", counting)
    run(lam, root, tmp_path / "labels", window=4, no_motion=True)
    # An episode that is not longer than the gap has no pair.
    assert sorted(decoded) == [row for row in range(sum(LENGTHS)) if not 14 <= row < 18]
    assert sum(encoded) == len(decoded)


def test_versions_are_of_shifted_frames_and_relative_ones_of_no_motion(lam, root, tmp_path):
    options = {"dtype": "float32", "augmentations": 2, "random_shift": 3, "no_motion": True, "seed": 5}
    labels = LatentLabels(run(lam, root, tmp_path / "labels", **options).folder)
    model, (frames, valid) = LatentActionModel.from_pretrained(lam), pairs_of(root)
    seen = set()
    for row in np.flatnonzero(valid)[::3]:
        for version in range(3):
            shift = labels.shift(row, version)
            seen.add(tuple(shift))
            assert np.abs(shift).max() <= 3 and (version > 0 or not shift.any())
            pair = random_shift(frames[row][None], 3, shifts=torch.from_numpy(shift)[None])
            with torch.no_grad():
                expected = model.encode(pair).latent_action.flatten().numpy()
                still = model.encode(pair[:, :1].expand(-1, 2, -1, -1, -1)).latent_action.flatten().numpy()
            np.testing.assert_allclose(labels.latent_action(row, version), expected, atol=1e-5)
            np.testing.assert_allclose(labels.no_motion(row, version), still, atol=1e-5)
    assert len(seen) > 3
    other = LatentLabels(run(lam, root, tmp_path / "other", **options | {"seed": 6}).folder)
    assert (other.column("shift") != labels.column("shift")).any()


def test_codes_that_are_fitted_afterwards_are_the_nearest_ones(lam, root, tmp_path):
    folder = run(lam, root, tmp_path / "labels", codebook_size=3, shard_frames=10, dtype="float32").folder
    labels = LatentLabels(folder)
    assert labels.manifest.codebook_per_token and labels.codebook.shape == (2, 3, 3)
    for row in np.flatnonzero(labels.valid):
        latent = labels.latent_action(row).reshape(2, 1, 3)
        distance = np.square(labels.codebook - latent).sum(-1)  # (L, V)
        assert (distance.argmin(1) == labels.code_indices(row)).all()
    assert len(np.unique(labels.column("code_indices")[labels.valid])) == 3
    again = LatentLabels(run(lam, root, tmp_path / "borrowed", codebook=str(folder)).folder)
    assert again.manifest.tokenizer == labels.manifest.tokenizer
    assert (again.codebook == labels.codebook).all()


def test_codebooks_that_do_not_fit_are_refused(lam, root, tmp_path):
    quantized = save_lam(tmp_path / "vq", quantizer="vq", codebook_size=7)
    with pytest.raises(ValueError, match="has a codebook of its own"):
        run(quantized, root, tmp_path / "a", codebook_size=3)
    plain = run(lam, root, tmp_path / "plain").folder
    with pytest.raises(ValueError, match="have no fitted codebook"):
        run(lam, root, tmp_path / "b", codebook=str(plain))
    fitted = run(lam, root, tmp_path / "fitted", codebook_size=3).folder
    with pytest.raises(ValueError, match="are of another latent action model"):
        run(save_lam(tmp_path / "other", seed=1), root, tmp_path / "c", codebook=str(fitted))
    with pytest.raises(ValueError, match=r"`codebook_size` is 500, but token 0.*different values"):
        run(lam, root, tmp_path / "d", codebook_size=500)
    with pytest.raises(ValueError, match="both given"):
        LabelOptions(codebook_size=3, codebook="x")


def test_shards_hold_whole_episodes():
    assert cut_into_shards([14, 4, 5, 11], 15) == [(0, 2), (2, 4)]
    assert cut_into_shards([14, 4, 5, 11], 1) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert cut_into_shards([3], 100) == [(0, 1)]


def test_a_second_run_does_nothing_and_other_labels_are_not_overwritten(lam, root, tmp_path, monkeypatch):
    out = tmp_path / "labels"
    run(lam, root, out, shard_frames=10)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr("lerobot_lara.labeling.run.label_here", None)
        run(lam, root, out, shard_frames=10)
    for options in (
        {"shard_frames": 40},
        {"dtype": "float32"},
        {"precision": "bfloat16"},
        {"no_motion": True},
        {"codebook_size": 2},
    ):
        with pytest.raises(ValueError, match="which holds other labels"):
            run(lam, root, out, **{"shard_frames": 10} | options)
    with pytest.raises(ValueError, match="which holds other labels"):
        run(save_lam(tmp_path / "other", seed=1), root, out, shard_frames=10)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    label(lam, str(root), out, options=LabelOptions(dtype="float32"), overwrite=True)
    assert LatentLabels(out).manifest.dtype == "float32"


def test_what_is_not_ours_stays(lam, root, tmp_path):
    out = tmp_path / "labels"
    run(lam, root, out)
    (out / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"holds notes.txt and is no folder of labels"):
            label(lam, str(root), out, overwrite=overwrite)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is the file"):
        run(lam, root, tmp_path / "file")
    (tmp_path / "data" / "data").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"neither plan.json nor meta.latent_labels.json"):
        run(lam, root, tmp_path / "data")


def test_a_broken_video_does_not_stop_the_others(lam, tmp_path, monkeypatch, capsys):
    root = make_tiny_dataset(tmp_path / "data", num_episodes=3, num_frames=12, storage="video")
    decode = ColumnReader._decode_video

    def broken(self, key, episode, rows, backend):
        if episode == 1:
            raise self._unreadable(key, rows, root / "file.mp4", [0.0], RuntimeError("damaged"))
        return decode(self, key, episode, rows, backend)

    out = tmp_path / "labels"
    with monkeypatch.context() as patch:
        patch.setattr(ColumnReader, "_decode_video", broken)
        assert main(["label", lam, str(root), f"--out={out}", "--shard-frames=12"]) == 1
    [error] = json.loads((out / "errors.json").read_text())
    assert error["episode"] == 1 and "episode 1" in error["error"]
    labels = LatentLabels(out)
    assert labels.valid.reshape(3, 12).sum(1).tolist() == [8, 0, 8] and labels.manifest.errors
    assert main(["label", "--check", str(out)]) == 1
    assert main(["label", lam, str(root), f"--out={out}", "--shard-frames=12"]) == 0
    assert LatentLabels(out).valid.reshape(3, 12).sum(1).tolist() == [8, 8, 8]
    assert not (out / "errors.json").exists() and main(["label", "--check", str(out)]) == 0


def test_a_full_disk_leaves_nothing_half_written_and_the_rest_is_done_later(lam, root, tmp_path, monkeypatch):
    out = tmp_path / "labels"
    write, written = pq.write_table, []

    def full(table, where):
        if len(written) == 2:
            where.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(where)
        write(table, where)

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        with pytest.raises(OSError, match="No space"):
            run(lam, root, out, shard_frames=1)
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(list(out.rglob("*.parquet"))) == 2 and not [path for path in files if "partial" in path.name]
    with pytest.raises(ValueError, match="holds no finished latent labels"):
        LatentLabels(out)
    run(lam, root, out, shard_frames=1)
    assert LatentLabels(out).manifest.valid == sum(max(0, length - 4) for length in LENGTHS)


def damage_column(out, name, change):
    file = min((out / "data").rglob("*.parquet"))
    table = pq.read_table(file)
    field = table.schema.field(name)
    values = pa.array(change(table[name].to_pylist()), type=field.type)
    pq.write_table(table.set_column(table.schema.names.index(name), field, values), file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda out: next((out / "data").rglob("*1.parquet")).unlink(), r"does not hold every row.*missing"),
        (lambda out: damage_column(out, "index", lambda rows: [0, *rows[:-1]]), "rows twice or in another"),
        (lambda out: damage_column(out, "valid", lambda rows: [not rows[0], *rows[1:]]), "`valid` is wrong"),
        (
            lambda out: damage_column(out, "latent_action", lambda rows: [[float("nan")] * 6, *rows[1:]]),
            "not finite",
        ),
        (
            lambda out: damage_column(out, "code_indices", lambda rows: [[9, 0], *rows[1:]]),
            "outside 0 to 2",
        ),
    ],
)
def test_the_check_finds_what_is_wrong(lam, root, tmp_path, damage, message, capsys):
    out = tmp_path / "labels"
    run(lam, root, out, shard_frames=10, codebook_size=3)
    assert main(["label", "--check", str(out)]) == 0
    damage(out)
    assert main(["label", "--check", str(out)]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_damaged_manifest_is_named(lam, root, tmp_path):
    out = tmp_path / "labels"
    run(lam, root, out)
    path = out / "meta" / "latent_labels.json"
    whole = json.loads(path.read_text())
    for change, message in (
        ({"frame_gap": "4"}, r"`frame_gap` is '4'; it must be a whole number"),
        ({"lam": {}}, r"`lam` lacks `sha256`"),
        ({"camera": None}, r"`camera` is None; it must be text"),
        ({"format": 2}, r"`format` is 2"),
    ):
        atomic.write_json(path, whole | change)
        with pytest.raises(ValueError, match=message):
            LabelManifest.read(out)
    path.write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        LabelManifest.read(out)


def test_bad_input_is_refused(lam, root, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere cannot be opened"):
        run(str(tmp_path / "nowhere"), root, tmp_path / "out")
    policy = make_policy()
    policy.save_pretrained(tmp_path / "dit")
    with pytest.raises(ValueError, match="such checkpoints hold no latent action model"):
        run(str(tmp_path / "dit"), root, tmp_path / "out")
    with pytest.raises(ValueError, match=r"`camera` is 'observation.images.side'; it must be one of"):
        label(lam, str(root), tmp_path / "out", camera="observation.images.side")
    two = make_tiny_dataset(
        tmp_path / "two", num_frames=8, cameras=("observation.images.a", "observation.images.b")
    )
    with pytest.raises(ValueError, match=r"`camera` is None; it must be one of.*Pass --camera"):
        run(lam, two, tmp_path / "out")
    short = make_tiny_dataset(tmp_path / "short", num_frames=4)
    with pytest.raises(ValueError, match="`frame_gap` is 4, which leaves no pair"):
        run(lam, short, tmp_path / "out")
    with pytest.raises(ValueError, match="not a LeRobotDataset"):
        run(lam, tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="both must be 0 or both above"):
        LabelOptions(augmentations=2)
    assert not (tmp_path / "out").exists()


def test_values_that_half_precision_cannot_hold_are_refused(root, tmp_path):
    model = LatentActionModel.from_pretrained(save_lam(tmp_path / "lam", normalize_latent=False))
    with torch.no_grad():
        for parameter in model.inverse_dynamics.head.parameters():
            parameter.mul_(1e9)
    model.save_pretrained(tmp_path / "large")
    with pytest.raises(ValueError, match=r"`dtype` is 'float16', which latent actions of up to .* exceed"):
        run(str(tmp_path / "large"), root, tmp_path / "out")


def test_columns_beside_the_frames_do_not_matter_and_other_frames_do(root, tmp_path, lam):
    images = make_tiny_dataset(tmp_path / "images", num_episodes=2, num_frames=8)
    for dataset in (images, root):
        labeled = run(lam, dataset, tmp_path / f"labels_{dataset.name}").manifest.dataset
        opened = LeRobotDataset(REPO_ID, root=dataset)
        values = np.zeros((opened.meta.total_frames, 1), np.float32)
        wider = add_features(
            opened,
            {"extra": (values, {"dtype": "float32", "shape": (1,), "names": None})},
            output_dir=tmp_path / f"wider_{dataset.name}",
            repo_id=REPO_ID,
        )
        episodes = range(opened.meta.total_episodes)
        assert find_difference(wider.meta, labeled, "observation.image", episodes) is None
    other = make_tiny_dataset(tmp_path / "other", num_episodes=2, num_frames=8, seed=9)
    labeled = LatentLabels(tmp_path / "labels_images").manifest.dataset
    found = find_difference(LeRobotDataset(REPO_ID, root=other).meta, labeled, "observation.image", range(2))
    assert found is not None and "holds other frames" in found


def test_help_and_missing_arguments(capsys):
    assert main(["label", "only_a_model"]) == 2
    assert "`dataset` is missing" in capsys.readouterr().err
