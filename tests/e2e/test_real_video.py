import math
from pathlib import Path

import numpy as np
import pytest
import torch
from support.helpers import run_train

from lerobot_lara.cli import main
from lerobot_lara.data.video.clip import read_frames
from lerobot_lara.lam.latent_action_model import LatentActionModel

FIXTURES = Path(__file__).parents[1] / "fixtures" / "fractal_clips"


@pytest.mark.e2e
def test_real_clips_train_a_latent_action_model(tmp_path):
    dataset = tmp_path / "dataset"
    command = f"import-video {FIXTURES} local/rt1 --root {dataset} --recorded-fps 3 --size 64"
    assert main([*command.split(), "--captions", str(FIXTURES / "lang_annotations.json")]) == 0

    run = run_train(
        policy__type="lara_lam",
        policy__frame_gap=3,
        policy__image_size=64,
        dataset__repo_id="local/rt1",
        dataset__root=dataset,
        output_dir=tmp_path / "run",
        batch_size=4,
        steps=4,
    )

    losses = run.values("reconstruction_loss")
    assert len(losses) == 4 and all(math.isfinite(loss) and loss > 0 for loss in losses)
    assert all(norm > 0 for norm in run.values("grad_norm"))
    model = LatentActionModel.from_pretrained(run.checkpoint)
    assert model.frame_gap == 3
    frames = [np.asarray(image) for image in read_frames(next(FIXTURES.glob("*.mp4")))]
    pair = (
        torch.from_numpy(np.stack([frames[0], frames[3]])).permute(0, 3, 1, 2)[None] / 255
    )  # (1, 2, 3, H, W)
    with torch.no_grad():
        prediction = model(pair).prediction
    assert prediction is not None and prediction.isfinite().all()
