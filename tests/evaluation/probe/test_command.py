"""`lara probe` as a user runs it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from support.tiny_datasets import make_tiny_dataset

from lerobot_lara import LaraConfig, LaraDiTConfig, LaraLAMConfig, cli
from lerobot_lara.evaluation.probe.checkpoint import open_checkpoints, short_labels
from lerobot_lara.evaluation.probe.report import GENERATOR
from lerobot_lara.evaluation.probe.run import output_folder, probe
from lerobot_lara.evaluation.probe.verdicts import TRANSFER
from lerobot_lara.lam.latent_action_model import LatentActionModel
from lerobot_lara.lam.modeling_lara_lam import LaraLAMPolicy

CAMERA = "observation.image"
FEATURES: dict[str, Any] = {
    "input_features": {CAMERA: PolicyFeature(FeatureType.VISUAL, (3, 32, 32))},
    "device": "cpu",
    "push_to_hub": False,
}
TINY: dict[str, Any] = {
    "frame_gap": 3,
    "image_size": 32,
    "prediction_size": 16,
    "frame_encoder_width": 8,
    "num_latent_tokens": 2,
    "latent_dim": 4,
    "idm_width": 16,
    "idm_num_layers": 1,
    "fdm_width": 16,
    "fdm_num_layers": 1,
}


def save_lam(folder: Path, **fields: Any) -> Path:
    torch.manual_seed(0)
    LaraLAMPolicy(LaraLAMConfig(**(FEATURES | TINY | fields))).save_pretrained(folder)
    return folder


def save_lara(folder: Path, **fields: Any) -> Path:
    """A `lara` checkpoint as far as its latent action model goes."""
    config = LaraConfig(
        **FEATURES,
        frame_gap=3,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (4,))},
    )
    config.save_pretrained(folder)
    torch.manual_seed(1)
    LatentActionModel.from_config(**(TINY | fields)).save_pretrained(folder / "lam")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_dataset(tmp_path_factory.mktemp("probe") / "tiny", num_episodes=5, num_frames=12)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_dataset(
        tmp_path_factory.mktemp("probe") / "video", num_episodes=4, action=False, state=False
    )


def test_before_and_after(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = save_lam(
        tmp_path / "run" / "before" / "checkpoints" / "last" / "pretrained_model", quantizer="vq"
    )
    after, out = save_lara(tmp_path / "after"), tmp_path / "report"
    command = [
        "probe",
        str(before),
        str(after),
        f"--dataset={root}",
        f"--out={out}",
        "--max-pairs=30",
        "--device=cpu",
    ]
    assert cli.main(command) == 0

    results = json.loads((out / "metrics.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert (results["pairs"], results["episodes"], results["frame_gap"]) == (30, 5, 3)
    assert results["constant_action_dimensions"] == ["dimension 2", "dimension 3"]
    first, second = results["models"]
    assert [first["label"], second["label"]] == ["before", "after"]
    assert [first["type"], second["type"]] == ["lara_lam", "lara"]
    assert "quantized latent" in first["action"]["r2"]["ridge"]
    assert "quantized latent" not in second["action"]["r2"]["ridge"]
    assert (
        first["latents"]["live_codes"] + first["latents"]["dead_codes"] == first["latents"]["codebook_size"]
    )
    assert second["latents"]["codebook_size"] is None
    assert len(first["verdicts"]) == 5
    increment = next(row for row in results["differences_to_the_first"] if "increment" in row["name"])
    assert increment["models"][0]["value"] == pytest.approx(
        second["action"]["together"]["value"]
        - second["action"]["baseline"]["value"]
        - first["action"]["together"]["value"]
        + first["action"]["baseline"]["value"]
    )

    page = (out / "report.html").read_text()
    for text in ("before", "after", "Side by side", TRANSFER, "data:image/png;base64"):
        assert text in page
    drawn = {path.stem for path in (out / "figures").iterdir()}
    each = {
        f"{name}_{number}"
        for name in ("predictions", "film", "transfer", "latents", "gallery")
        for number in (1, 2)
    }
    assert drawn == each | {"distractors", "action_probe", "prediction"}
    assert page.count("<video") == 2 and "data:video/mp4;base64" in page
    assert page.count("<img") == len(drawn) - 2


def test_action_free_video_and_a_second_report_replaces_the_first(video: Path, tmp_path: Path) -> None:
    lam, out = save_lam(tmp_path / "lam"), tmp_path / "report"
    page = probe([str(lam)], dataset=str(video), out=out, max_pairs=16, device="cpu")
    earlier = [out / "figures" / name for name in ("transfer_2.png", "film_2.mp4")]
    for file in earlier:
        file.write_bytes(b"of an earlier comparison")
    first = json.loads((out / "metrics.json").read_text())
    assert probe([str(lam)], dataset=str(video), out=out, max_pairs=16, device="cpu") == page
    assert json.loads((out / "metrics.json").read_text()) == first  # seeded
    assert first["models"][0]["action"] is None
    assert "the dataset has no actions" in page.read_text()
    assert not any(file.exists() for file in earlier)


def test_model_that_predicts_features_only(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lam = save_lam(tmp_path / "lam")
    opened = open_checkpoints([str(lam)], device="cpu")
    opened[0].model.decodes = False
    monkeypatch.setattr("lerobot_lara.evaluation.probe.run.open_checkpoints", lambda *_, **__: opened)
    page = probe(
        [str(lam)], dataset=str(video), out=tmp_path / "report", max_pairs=16, device="cpu"
    ).read_text()
    assert "this model predicts features, not frames" in page


def test_checkpoint_encodes_as_its_latent_action_model(tmp_path: Path) -> None:
    folder = save_lam(tmp_path / "lam", quantizer="fsq")
    model, lam = (
        open_checkpoints([str(folder)], device="cpu")[0].model,
        LatentActionModel.from_pretrained(folder),
    )
    frames = torch.rand(3, 2, 3, 32, 32)
    latents, output = model.encode(frames), lam.encode(frames)
    assert torch.equal(latents.continuous, output.latent_action.flatten(1))
    assert torch.equal(latents.quantized, output.quantized_latent_action.flatten(1))
    assert output.code_indices is not None and latents.codes is not None
    assert torch.equal(latents.codes, output.code_indices)
    predicted = lam.decode(frames[:, 0], output.quantized_latent_action)
    assert torch.equal(model.decode(frames[:, 0], latents.quantized), predicted)
    assert torch.allclose(model.features(frames[:, 0]), lam.frame_encoder(frames[:, 0]).mean(1))
    assert model.codebook_size == lam.quantizer.codebook_size


def test_labels_are_the_telling_part_of_a_path() -> None:
    last = "checkpoints/last/pretrained_model"
    assert short_labels([f"outputs/lam/{last}", "you/lara"]) == ["lam", "lara"]
    alike = [f"a/lam/{last}", f"b/lam/{last}"]
    assert short_labels(alike) == alike


def test_checkpoints_that_cannot_be_probed(root: Path, tmp_path: Path) -> None:
    lam = save_lam(tmp_path / "lam")
    dit = tmp_path / "dit"
    action = {"output_features": {"action": PolicyFeature(FeatureType.ACTION, (4,))}}
    LaraDiTConfig(**FEATURES, **action).save_pretrained(dit)

    def refuse(message: str, *checkpoints: Path, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            probe(
                [str(path) for path in checkpoints],
                **({"dataset": str(root), "out": tmp_path / "out"} | options),
            )

    refuse("'lara_dit': such checkpoints hold no latent action model", lam, dit)
    refuse("nowhere cannot be opened: .*Pass the folder or Hub id", tmp_path / "nowhere")
    refuse("the same checkpoint twice", lam, lam)
    refuse("`frame_gap` differs between the checkpoints", lam, save_lam(tmp_path / "far", frame_gap=4))
    refuse("different cameras", lam, save_lam(tmp_path / "wrist", **_camera("observation.images.wrist")))
    refuse("observation.images.wrist", tmp_path / "wrist")
    refuse("`device` is 'cuda'; .*no CUDA", lam, device="cuda") if not torch.cuda.is_available() else None
    refuse("`device` is 'abacus'", lam, device="abacus")
    run = tmp_path / "run"
    save_lam(run / "checkpoints" / "last" / "pretrained_model")
    refuse("Pass .*/checkpoints/last/pretrained_model", run)
    assert not (tmp_path / "out").exists()


def test_nothing_of_others_is_replaced(root: Path, tmp_path: Path) -> None:
    lam = save_lam(tmp_path / "lam")
    used = tmp_path / "used"
    used.mkdir()
    (used / "report.html").write_text("<html>mine")
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (used, file, lam):
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        with pytest.raises(ValueError, match=r"`out` is .*--out"):
            probe([str(lam)], dataset=str(root), out=out)
        assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (used / "report.html").write_text(f"<!doctype html>{GENERATOR}")
    assert output_folder(used, str(root)) == used


def _camera(key: str) -> dict[str, Any]:
    return {"input_features": {key: PolicyFeature(FeatureType.VISUAL, (3, 32, 32))}}
