"""`lara label --check`: what it finds beyond missing rows and wrong values: edited manifests and codebooks."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file
from support.tiny_datasets import make_tiny_dataset

from lerobot_lara.cli import main
from lerobot_lara.data.latent_labels.labels import LatentLabels
from lerobot_lara.labeling.check import check_labels
from lerobot_lara.labeling.plan import LabelOptions
from lerobot_lara.labeling.run import label

from .test_label import save_lam


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    lam = save_lam(folder / "lam")
    root = make_tiny_dataset(folder / "data", num_episodes=3, num_frames=10, action=False, state=False)
    options = LabelOptions(codebook_size=3, shard_frames=10, augmentations=1, random_shift=2, no_motion=True)
    label(lam, str(root), folder / "labels", options=options)
    return folder / "labels"


@pytest.fixture
def out(made, tmp_path):
    return shutil.copytree(made, tmp_path / "labels")


def edit_manifest(out, change):
    path = out / "meta" / "latent_labels.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_column(out, name, change, file=1):
    path = sorted((out / "data").rglob("*.parquet"))[file]
    table = pq.read_table(path)
    field = table.schema.field(name)
    values = pa.array(change(table[name].to_pylist()), type=field.type)
    pq.write_table(table.set_column(table.schema.names.index(name), field, values), path)


def test_whole_labels_pass(out):
    assert len(check_labels(out)) == 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(frame_gap=3), r"`valid` is wrong at 3 rows"),
        (lambda content: content.update(valid=17, invalid=13), "counts other rows as valid"),
        (lambda content: content.update(codebook_size=2), "outside 0 to 1"),
        (lambda content: content.update(codebook_size=5), r"codebook has the shape \(2, 3, 3\), and not"),
        (lambda content: content.update(dtype="float32"), "is float16, and not float32"),
        (lambda content: content.update(latent_dim=4), r"`latent_action` is .*; it must be a list of 16"),
        (lambda content: content.update(augmentations=0), r"must be a list of 6"),
        (lambda content: content.update(random_shift=1), "`shift` has shifts of more than 1"),
        (
            lambda content: content.update(codebook_sha256="0" * 64),
            "the codebook is not the one of the manifest",
        ),
        (lambda content: content.update(no_motion=False), None),
        (lambda content: content["dataset"].update(episode_lengths=[10, 10]), "rows that the dataset lacks"),
        (lambda content: content["dataset"].update(episode_lengths=[10, 10, 12]), "row 30 is missing"),
        (lambda content: content["dataset"].update(episode_lengths=[12, 8, 10]), "`valid` is wrong"),
        (lambda content: content["dataset"].update(episodes=[0, 2]), "rows that the dataset lacks"),
        (lambda content: content["dataset"].update(episodes=[0, 9]), r"`dataset.episodes` has 9"),
        (lambda content: content["errors"].append({"episode": 1}), "`valid` is wrong at 6 rows"),
    ],
)
def test_an_edited_manifest_is_found(out, change, message):
    edit_manifest(out, change)
    if message is None:  # what is not mentioned is not looked at
        check_labels(out)
        return
    with pytest.raises(ValueError, match=message) as error:
        check_labels(out)
    assert str(out) in str(error.value)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("valid", lambda rows: [*rows[:-1], True], "`valid` is wrong at 1 rows"),
        ("index", lambda rows: [*rows[:-1], 29], "rows twice or in another order"),
        (
            "latent_action",
            lambda rows: [[np.inf] * 12, *rows[1:]],
            "`latent_action` has values that are not finite",
        ),
        (
            "latent_no_motion",
            lambda rows: [[np.nan] * 12, *rows[1:]],
            "`latent_no_motion` has values that are not",
        ),
        ("code_indices", lambda rows: [[0, 0, 0, 3], *rows[1:]], "outside 0 to 2"),
        ("code_indices", lambda rows: [[-1, 0, 0, 0], *rows[1:]], "outside 0 to 2"),
        ("shift", lambda rows: [[0, 1, 0, 0], *rows[1:]], "`shift` has shifts"),
        ("shift", lambda rows: [[0, 0, 0, 3], *rows[1:]], "`shift` has shifts of more than 2 pixels"),
    ],
)
def test_wrong_values_are_found_in_any_file(out, name, change, message):
    edit_column(out, name, change)
    with pytest.raises(ValueError, match=message):
        check_labels(out)


def rewrite_codebook(out, change):
    path = out / "meta" / "codebook.safetensors"
    save_file({"codebook": change(load_file(path)["codebook"])}, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda out: rewrite_codebook(out, lambda codes: codes + 1),
            "codebook is not the one of the manifest",
        ),
        (
            lambda out: (out / "meta/codebook.safetensors").unlink(),
            r"codebook.safetensors is missing or damaged",
        ),
        (lambda out: (out / "meta/codebook.safetensors").write_bytes(b"x"), "is missing or damaged"),
        (lambda out: shutil.rmtree(out / "data"), "lacks its tables in `data`"),
        (lambda out: next((out / "data").rglob("*2.parquet")).unlink(), "row 20 is missing"),
        (
            lambda out: next((out / "data").rglob("*2.parquet")).write_bytes(b"x"),
            "cannot be read as a parquet",
        ),
        (
            lambda out: shutil.copy(
                out / "data/chunk-000/file-002.parquet", out / "data/chunk-000/file-003.parquet"
            ),
            "rows twice",
        ),
        (lambda out: drop_column(out, "index"), "`index` is None; it must be a column of int64"),
        (lambda out: drop_column(out, "shift"), "`shift` is None; it must be a list of 4"),
    ],
)
def test_damaged_files_are_named(out, damage, message, capsys):
    damage(out)
    assert main(["label", "--check", str(out)]) == 2, "what a user can mend"
    assert message.replace("`", "") in capsys.readouterr().err.replace("`", "")


def drop_column(out, name):
    path = min((out / "data").rglob("*.parquet"))
    pq.write_table(pq.read_table(path).drop_columns([name]), path)


def test_a_damaged_codebook_is_not_borrowed(out, made, tmp_path):
    rewrite_codebook(out, lambda codes: codes + 1)
    lam, root = made.parent / "lam", made.parent / "data"
    with pytest.raises(ValueError, match="codebook is not the one of the manifest"):
        label(str(lam), str(root), tmp_path / "borrowed", options=LabelOptions(codebook=str(out)))


def test_codes_of_versions_are_fitted_and_borrowed_alike(made, tmp_path):
    """The codebook is fitted to unshifted frames, and gives codes to all versions."""
    labels = LatentLabels(made)
    latents, codes = labels.column("latent_action").astype(np.float64), labels.column("code_indices")
    for row in np.flatnonzero(labels.valid):
        for version in range(2):
            distance = np.square(latents[row, version].reshape(2, 1, 3) - labels.codebook).sum(-1)
            assert (distance.argmin(1) == codes[row, version]).all()
    assert (codes[~labels.valid] == -1).all()
    lam, root = made.parent / "lam", made.parent / "data"
    options = LabelOptions(codebook=str(made), augmentations=1, random_shift=2, no_motion=True)
    borrowed = LatentLabels(label(str(lam), str(root), tmp_path / "borrowed", options=options)[0].folder)
    np.testing.assert_array_equal(borrowed.column("code_indices"), codes)
    assert borrowed.manifest.tokenizer == labels.manifest.tokenizer


def test_labels_are_only_written_if_they_pass(made, tmp_path, monkeypatch):
    def refuse(folder):
        raise ValueError("wrong")

    monkeypatch.setattr("lerobot_lara.labeling.finish.check_labels", refuse)
    lam, root = made.parent / "lam", made.parent / "data"
    with pytest.raises(ValueError, match="wrong"):
        label(str(lam), str(root), tmp_path / "out")
    with pytest.raises(ValueError, match="holds no finished latent labels"):
        LatentLabels(tmp_path / "out")
