"""The samples of a mixture against LeRobot's own dataset, and what is masked."""

import pytest
import torch
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from support.tiny_datasets import make_tiny_dataset
from torch.utils.data import DataLoader

from lerobot_lara import LaraDiTConfig, LaraLAMConfig
from lerobot_lara.batch.keys import (
    ACTION_DIM_IS_PAD,
    ACTION_EXTRA,
    DATASET_INDEX,
    EMBODIMENT_ID,
    STATE_EXTRA,
)
from lerobot_lara.data.mixture.samples import fit_image

from .conftest import ARM, ROBOT, VIDEO, lara_config


def entry_samples(dataset, name):
    return next(entry for entry in dataset.entries if entry.source.name == name)


@pytest.mark.parametrize("storage", ["image", "video"])
@pytest.mark.parametrize("episodes", [None, [1, 3]])
def test_samples_equal_those_of_lerobot(tmp_path, build, storage, episodes):
    root = make_tiny_dataset(tmp_path / "own", num_episodes=4, num_frames=[9, 7, 12, 6], storage=storage)
    config = lara_config()
    mixed = build(
        {"name": "own", "repo_id": "local/own", "root": str(root), "episodes": episodes}, cameras=None
    )
    meta = LeRobotDataset("local/own", root=root).meta
    stock = LeRobotDataset(
        "local/own",
        root=root,
        episodes=episodes,
        delta_timestamps=resolve_delta_timestamps(config, meta),
        video_backend="pyav",
        return_uint8=True,
    )
    assert len(mixed) == len(stock)
    for draw in range(len(mixed)):
        ours, theirs = mixed[draw], stock[draw]
        if storage == "image":  # which LeRobot hands out as floats
            theirs["observation.image"] = (theirs["observation.image"] * 255).round().to(torch.uint8)
        for key in (
            "observation.image",
            "observation.image_is_pad",
            "observation.state",
            "observation.state_is_pad",
            "action",
            "action_is_pad",
        ):
            assert ours[key].dtype == theirs[key].dtype, key
            assert torch.equal(ours[key], theirs[key]), (draw, key)
        assert ours["task"] == theirs["task"]
        assert ours["timestamp"] == theirs["timestamp"]


@pytest.mark.parametrize("policy", [lara_config(), LaraLAMConfig(frame_gap=4), None])
def test_all_samples_fit_into_one_batch(build, policy):
    policy = policy or LaraDiTConfig(max_action_dim=7, max_state_dim=5, embodiments=["default", "arm"])
    mixed = build(policy=policy)
    batch = next(iter(DataLoader(mixed, batch_size=len(mixed))))
    assert batch["observation.image"].dtype == torch.uint8
    assert set(batch[DATASET_INDEX].tolist()) == {0, 1, 2}


def test_pairs_are_the_same_time_apart_in_every_dataset(build, datasets):
    mixed = build()
    for name, gap in (("robot", 4), ("arm", 2), ("video", 8)):
        samples = entry_samples(mixed, name)
        camera = {value: key for key, value in (samples.source.config.cameras or {}).items()}
        key = camera.get("observation.image", "observation.image")
        stock = LeRobotDataset(f"local/{name}", root=datasets / name, return_uint8=True, video_backend="pyav")
        image = samples[1]["observation.image"]
        expected = [stock[1][key], stock[1 + gap][key]]
        if name == "robot":
            expected = [(frame * 255).round().to(torch.uint8) for frame in expected]
            assert torch.equal(image, torch.stack(expected))
        elif name == "video":
            assert torch.equal(image, torch.stack(expected))
        assert not samples[1]["observation.image_is_pad"].any()


def test_no_pair_crosses_an_episode(build):
    mixed = build()
    for entry, gap in zip(mixed.entries, (4, 2, 8), strict=True):
        lengths, starts = entry.reader.lengths, entry.reader.starts
        assert len(entry) == (
            sum(max(0, n - gap) for n in lengths) if entry.source.name == "video" else sum(lengths)
        )
        rows = []
        for frame in range(len(entry)):
            position, row = entry.locate(frame)
            assert starts[position] <= row < starts[position] + lengths[position]
            beyond = row + gap >= starts[position] + lengths[position]
            assert entry[frame]["observation.image_is_pad"].tolist() == [False, beyond]
            rows.append(row)
        assert len(set(rows)) == len(entry)


def test_missing_camera_is_black_and_masked(build):
    mixed = build()
    robot, arm = (entry_samples(mixed, name)[0] for name in ("robot", "arm"))
    assert robot["observation.images.wrist"].sum() == 0
    assert robot["observation.images.wrist_is_pad"].tolist() == [True, True]
    assert arm["observation.images.wrist"].float().std() > 1
    assert arm["observation.images.wrist_is_pad"].tolist() == [False, False]


def test_without_a_time_axis_only_the_missing_camera_is_flagged(build):
    mixed = build(policy=LaraDiTConfig(max_action_dim=7, max_state_dim=5, embodiments=["default", "arm"]))
    sample = entry_samples(mixed, "robot")[0]
    assert sample["observation.image"].shape == (3, 32, 32)
    assert sample["observation.image_is_pad"].tolist() == [False]
    assert sample["observation.images.wrist_is_pad"].tolist() == [True]


def test_action_free_samples_are_masked(build):
    sample = entry_samples(build(), "video")[0]
    assert sample["action_is_pad"].all()
    assert sample["action"].shape == (8, 4)
    # The dimensions of the reference dataset's robot, so that the noise that the policy sees is noise.
    assert sample[ACTION_DIM_IS_PAD].tolist() == [False] * 4 + [True] * 3
    assert sample["task"] == "a hand"


def test_other_robots_are_normalized_by_their_own_statistics(build, datasets):
    samples = entry_samples(build(), "arm")
    values = torch.stack(
        [torch.cat([s["action"][0], s[ACTION_EXTRA][0]]) for s in map(samples.__getitem__, range(21))]
    )
    robot = entry_samples(build(), "robot").source.meta.stats["action"]
    mean, std = (torch.as_tensor(robot[name], dtype=torch.float32) for name in ("mean", "std"))
    moving = [0, 1]  # the others are constant 0
    normalized = (values[:, moving] - mean[moving]) / std[moving]
    torch.testing.assert_close(normalized.mean(0), torch.zeros(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(normalized.std(0, correction=0), torch.ones(2), atol=1e-2, rtol=0)
    sample = samples[0]
    assert sample[ACTION_EXTRA].shape == (8, 3)
    assert sample[STATE_EXTRA].shape == (1,)
    assert sample[EMBODIMENT_ID] == 1
    assert not sample[ACTION_DIM_IS_PAD].any()


def test_statistics_per_embodiment_keep_shared_units(tmp_path, build):
    """Two datasets of one robot: with `statistics: embodiment` the second is not stretched to the first."""
    entries = []
    for name, seed in (("a", 0), ("b", 5)):
        root = make_tiny_dataset(tmp_path / name, num_episodes=2, num_frames=10, seed=seed)
        entries.append({"name": name, "repo_id": f"local/{name}", "root": str(root)})
    stock = LeRobotDataset("local/b", root=tmp_path / "b")
    raw = torch.stack([stock[i]["action"] for i in range(10)])
    config = lara_config()

    def actions(statistics):
        mixed = build(*entries, policy=config, cameras=None, statistics=statistics)
        samples = entry_samples(mixed, "b")
        return torch.stack([samples[i]["action"][0] for i in range(10)])

    assert torch.equal(actions("embodiment"), raw)
    assert not torch.allclose(actions("dataset"), raw, atol=1e-3)


def test_dims_and_mirrored_grippers(build, datasets):
    plain = LeRobotDataset("local/robot", root=datasets / "robot")
    raw = torch.stack([plain[i]["action"] for i in range(12)])
    flipped = {"action": {"key": "action", "dims": [1, 0], "invert": [0]}}
    mapped = build(ROBOT | flipped, VIDEO, policy=lara_config())
    samples = entry_samples(mapped, "robot")
    ours = torch.stack([samples[i]["action"][0] for i in range(12)])
    stats = plain.meta.stats["action"]
    torch.testing.assert_close(ours[:, 0], raw[:, 1])
    mirrored = float(stats["min"][0] + stats["max"][0]) - raw[:, 0]
    torch.testing.assert_close(ours[:, 1], mirrored)
    assert mapped.meta.features["action"]["shape"] == (2,)
    assert mapped.meta.stats["action"]["mean"].shape == (2,)


def test_instruction_and_text_column(build):
    assert entry_samples(build(ROBOT | {"instruction": "do it"}, ARM, VIDEO), "robot")[0]["task"] == "do it"
    mixed = build()
    assert {mixed[i]["task"] for i in range(len(mixed))} == {
        "push",
        "pull",
        "lift",
        "a hand",
        "a cup",
        "a door",
    }
    assert {mixed[i]["task_index"].item() for i in range(len(mixed))} == set(range(6))


def test_episode_numbers_are_unique_across_datasets(build):
    mixed = build()
    episodes = {(mixed[i][DATASET_INDEX].item(), mixed[i]["episode_index"].item()) for i in range(len(mixed))}
    assert {episode for _, episode in episodes} == set(range(10))
    assert len(episodes) == 10


def test_each_frame_is_decoded_once(build, monkeypatch):
    """Two frames for a pair, whatever the length of the action chunk."""
    mixed = build()
    robot = entry_samples(mixed, "robot")
    decoded = []
    feature = type(robot.reader._image_feature)
    original = feature.decode_example
    monkeypatch.setattr(
        feature, "decode_example", lambda self, value: decoded.append(1) or original(self, value)
    )
    _ = robot[0]
    assert len(decoded) == 2
    decoded.clear()
    _ = robot[11]  # the last frame of an episode: both of the pair are it
    assert len(decoded) == 1


def test_images_are_cropped_about_the_center():
    image = torch.zeros(1, 3, 20, 40, dtype=torch.uint8)
    image[..., 10:30] = 200
    fitted = fit_image(image, (10, 10))
    assert fitted.shape == (1, 3, 10, 10)
    assert (fitted == 200).all()
    assert fit_image(image, (20, 40)) is image


def test_rows_may_come_in_any_order_and_twice(build):
    reader = entry_samples(build(), "robot").reader
    frames = reader.images("observation.image", 0, [5, 3, 5])
    assert torch.equal(frames[0], frames[2])
    for frame, row in zip(frames, (5, 3, 5), strict=True):
        assert torch.equal(frame, reader.images("observation.image", 0, [row])[0])
