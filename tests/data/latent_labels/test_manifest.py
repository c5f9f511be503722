"""The manifest of latent labels: what it must hold, and what makes two labelings the same."""

import json
from dataclasses import replace

import pytest

from lerobot_lara.data.latent_labels.manifest import MANIFEST, LabelManifest


@pytest.fixture
def manifest():
    return LabelManifest(
        lam={"name": "lam", "revision": None, "sha256": "a" * 64, "settings_sha256": "b" * 64},
        dataset={
            "repo_id": "local/data",
            "revision": None,
            "fps": 10.0,
            "total_frames": 22,
            "episode_lengths": [12, 10],
            "episodes": None,
            "files": {"videos/a.mp4": 1234},
        },
        camera="observation.image",
        frame_size=[32, 32],
        frame_gap=4,
        num_latent_tokens=2,
        latent_dim=3,
        codebook_size=7,
        codebook_per_token=False,
        codebook_sha256=None,
        dtype="float16",
        precision="float32",
        augmentations=0,
        random_shift=0,
        seed=0,
        no_motion=False,
        valid=14,
        invalid=8,
    )


def test_what_is_written_is_read(manifest, tmp_path):
    manifest.write(tmp_path)
    assert LabelManifest.read(tmp_path) == manifest
    content = json.loads((tmp_path / MANIFEST).read_text())
    assert content["frame_gap_s"] == 0.4 and manifest.latent_width == 6
    (tmp_path / MANIFEST).write_text(json.dumps(content | {"of_a_later_version": 1}))
    assert LabelManifest.read(tmp_path) == manifest


def test_a_folder_without_a_manifest_is_not_finished(tmp_path):
    with pytest.raises(
        ValueError, match=rf"{tmp_path} holds no finished latent labels.*again if it was stopped"
    ):
        LabelManifest.read(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("format", 2, "1"),
        ("lam", [], "an object"),
        ("lam.name", "", "text"),
        ("lam.sha256", None, "text"),
        ("dataset", "data", "an object"),
        ("dataset.fps", 0, "a number above 0"),
        ("dataset.fps", "10", "a number above 0"),
        ("dataset.episode_lengths", ["12", 10], "a list of whole numbers above 0"),
        ("dataset.episode_lengths", 22, "a list of whole numbers above 0"),
        ("dataset.files", [], "an object"),
        ("camera", "", "text"),
        ("frame_size", [32], r"\[height, width\] in pixels"),
        ("frame_gap", 0, "a whole number from 1"),
        ("frame_gap", 4.0, "a whole number from 1"),
        ("num_latent_tokens", True, "a whole number from 1"),
        ("latent_dim", None, "a whole number from 1"),
        ("codebook_size", 0, "a number of codes or null"),
        ("codebook_per_token", "no", "true or false"),
        ("codebook_sha256", 3, "text or null"),
        ("dtype", "int8", "float16 or float32"),
        ("precision", "float8", "one of float32, tf32, bfloat16"),
        ("augmentations", -1, "a whole number from 0"),
        ("random_shift", -1, "a whole number from 0"),
        ("seed", "0", "a whole number from 0"),
        ("no_motion", 1, "true or false"),
        ("valid", None, "a whole number from 0"),
        ("invalid", -3, "a whole number from 0"),
        ("errors", {}, "a list of episodes with their errors"),
        ("errors", [{"error": "no episode"}], "a list of episodes with their errors"),
        ("errors", ["text"], "a list of episodes with their errors"),
    ],
)
def test_a_wrong_value_is_named_with_its_file_and_what_to_do(manifest, tmp_path, field, value, expected):
    manifest.write(tmp_path)
    path = tmp_path / MANIFEST
    content = json.loads(path.read_text())
    outer, _, inner = field.partition(".")
    content[outer] = content[outer] | {inner: value} if inner else value
    path.write_text(json.dumps(content))
    with pytest.raises(
        ValueError, match=rf"{path}: `{field}` is .*; it must be {expected}.*Label the dataset again"
    ):
        LabelManifest.read(tmp_path)


def test_a_missing_value_is_named(manifest, tmp_path):
    manifest.write(tmp_path)
    path = tmp_path / MANIFEST
    whole = json.loads(path.read_text())
    for field in whole.keys() - {"plan", "frame_gap_s"}:
        path.write_text(json.dumps({name: value for name, value in whole.items() if name != field}))
        with pytest.raises(ValueError, match=f"{path} lacks `{field}`"):
            LabelManifest.read(tmp_path)
    for outer, inner in (
        ("lam", "sha256"),
        ("lam", "settings_sha256"),
        ("dataset", "fps"),
        ("dataset", "files"),
    ):
        content = {name: value for name, value in whole[outer].items() if name != inner}
        path.write_text(json.dumps(whole | {outer: content}))
        with pytest.raises(ValueError, match=f"{path}: `{outer}` lacks `{inner}`"):
            LabelManifest.read(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "version https://git-lfs.github.com/spec/v1\noid sha256:0"])
def test_what_is_no_json_object_is_named(manifest, tmp_path, text):
    manifest.write(tmp_path)
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ValueError, match=str(tmp_path / MANIFEST)):
        LabelManifest.read(tmp_path)


def test_the_identity_is_of_what_decides_the_values(manifest):
    for same in (
        replace(manifest, lam=manifest.lam | {"name": "other", "revision": "main"}),
        replace(manifest, dataset=manifest.dataset | {"repo_id": "other/data", "revision": "main"}),
        replace(manifest, valid=3, invalid=19, errors=[{"episode": 0, "error": "broken"}], plan="c"),
    ):
        assert same.identity() == manifest.identity()
    for other in (
        replace(manifest, lam=manifest.lam | {"sha256": "c" * 64}),
        replace(manifest, lam=manifest.lam | {"settings_sha256": "c" * 64}),
        replace(manifest, dataset=manifest.dataset | {"fps": 20.0}),
        replace(manifest, dataset=manifest.dataset | {"episode_lengths": [10, 12]}),
        replace(manifest, dataset=manifest.dataset | {"files": {"videos/a.mp4": 1235}}),
        replace(manifest, dataset=manifest.dataset | {"episodes": [0]}),
        replace(manifest, camera="observation.images.side"),
        replace(manifest, frame_gap=5),
        replace(manifest, frame_size=[32, 40]),
        replace(manifest, dtype="float32"),
        replace(manifest, augmentations=1, random_shift=2),
        replace(manifest, seed=1),
        replace(manifest, no_motion=True),
        replace(manifest, codebook_sha256="d" * 64),
    ):
        assert other.identity() != manifest.identity()


def test_codes_are_the_same_with_one_model_and_one_codebook(manifest):
    assert replace(manifest, codebook_size=None).tokenizer is None
    assert replace(manifest, frame_gap=8, camera="other").tokenizer == manifest.tokenizer
    for other in (
        replace(manifest, codebook_sha256="d" * 64),
        replace(manifest, lam=manifest.lam | {"sha256": "c" * 64}),
        replace(manifest, lam=manifest.lam | {"settings_sha256": "c" * 64}),
    ):
        assert other.tokenizer != manifest.tokenizer
