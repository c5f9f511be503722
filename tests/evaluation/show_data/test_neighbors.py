"""The pairs that `lara show-data` shows for their similar latent actions."""

import re

import numpy as np
import pytest
import torch
from support.policies import TINY_LAM
from support.tiny_datasets import make_tiny_dataset

from lerobot_lara.cli import main
from lerobot_lara.evaluation.show_data.neighbors import nearest_rows
from lerobot_lara.labeling.run import label
from lerobot_lara.lam.latent_action_model import LatentActionModel


def test_neighbors_are_the_most_similar_of_each_other_episode():
    latents = np.array([[2.0, 0], [2.1, 0], [1.9, 0.2], [0, 2], [-2, -1], [-4, -1.2]])
    episodes = np.array([0, 0, 1, 1, 2, 3])
    found = nearest_rows(latents, episodes, 0, 2)
    assert [row for row, _ in found] == [2, 4]
    assert found[0][1] > 0.9 and found[0][1] > found[1][1]
    assert all(episodes[row] != 0 for row, _ in found)


@pytest.fixture
def labeled(tmp_path):
    root = make_tiny_dataset(tmp_path / "data", num_episodes=4, num_frames=12)
    torch.manual_seed(0)
    LatentActionModel.from_config(**TINY_LAM).save_pretrained(tmp_path / "lam")
    return root, label(str(tmp_path / "lam"), str(root), tmp_path / "labels")[0].folder


def test_the_page_shows_them_for_a_labeled_dataset(labeled, tmp_path, capsys):
    root, labels = labeled
    page = tmp_path / "page.html"
    assert main(["show-data", str(root), "--frame-gap=4", f"--labels={labels}", f"--out={page}"]) == 0
    text = page.read_text()
    assert "Similar latent actions" in text
    section = text.split("Similar latent actions")[1].split("<h3>Language")[0]
    assert section.count("<tr>") == 4 and section.count("data:image") == 4 * 4 * 2
    for row in section.split("<tr>")[1:]:
        shown = re.findall(r"episode (\d+)", row)
        assert len(set(shown)) == 4, "each of another episode"
    assert main(["show-data", str(root), "--frame-gap=4", f"--out={page}"]) == 0
    assert "Similar latent actions" not in page.read_text()


def test_labels_of_other_data_are_refused(labeled, tmp_path, capsys):
    _, labels = labeled
    other = make_tiny_dataset(tmp_path / "other", num_episodes=3, num_frames=12)
    assert (
        main(["show-data", str(other), "--frame-gap=4", f"--labels={labels}", f"--out={tmp_path}/p.html"])
        == 2
    )
    assert "it has 3 episodes, and 4 were labeled" in capsys.readouterr().err
