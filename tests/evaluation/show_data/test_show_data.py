"""`lara show-data`: what the page says and shows, against the data itself."""

import base64
import html
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from PIL import Image
from support.tiny_datasets import make_tiny_dataset

from lerobot_lara.cli import main
from lerobot_lara.data.mixture.build import build_mixture
from lerobot_lara.data.mixture.config import load_mixture
from lerobot_lara.evaluation.show_data import page as module
from lerobot_lara.evaluation.show_data.page import (
    GENERATOR,
    configure_policy,
    open_data,
    show_data,
    training_flags,
)
from lerobot_lara.evaluation.show_data.pairs import (
    augment_pairs,
    choose_draws,
    frame_gap,
    image_uri,
    num_pairs,
    read_pairs,
)
from lerobot_lara.evaluation.show_data.summary import describe_entry

ROBOT = {"name": "robot", "repo_id": "local/robot", "root": "robot", "embodiment": "robot"}
ARM = {
    "name": "arm",
    "repo_id": "local/arm",
    "root": "arm",
    "embodiment": "arm",
    "cameras": {"observation.images.top": "observation.image"},
}
VIDEO = {
    "name": "video",
    "repo_id": "local/video",
    "root": "video",
    "action_free": True,
    "weight": 2,
    "cameras": {"observation.images.top": "observation.image"},
}
STILL = {"name": "still", "repo_id": "local/still", "root": "still", "embodiment": "still"}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """`robot` (two cameras), `arm` (one of them, more actions), `video` (no actions) and `still` (all is wrong)."""
    root = tmp_path_factory.mktemp("show_data")
    make_tiny_dataset(
        root / "robot",
        num_episodes=4,
        num_frames=12,
        task=["push", "pull <it>"],
        cameras=("observation.image", "observation.images.wrist"),
        action_dim=2,
        state_dim=2,
    )
    make_tiny_dataset(
        root / "arm",
        num_episodes=2,
        num_frames=[9, 7],
        size=(32, 48),
        cameras=("observation.images.top", "observation.images.side"),
        action_dim=3,
        state_dim=2,
        fps=5,
        seed=1,
        task="lift",
    )
    make_tiny_dataset(
        root / "video",
        num_episodes=3,
        num_frames=[30, 6, 20],
        action=False,
        state=False,
        fps=20,
        seed=2,
        cameras=("observation.images.top",),
        task=["a hand", "a cup", "a door"],
    )
    make_still_dataset(root / "still")
    return root


def make_still_dataset(root):
    """Nothing moves; the second of two episodes is black and has no instruction; actions are constant, or one spike."""
    features = {
        "observation.image": {
            "dtype": "image",
            "shape": (32, 32, 3),
            "names": ["height", "width", "channels"],
        },
        "observation.state": {"dtype": "float32", "shape": (1,), "names": ["angle"]},
        "action": {"dtype": "float32", "shape": (3,), "names": ["lift", "stuck", "spike"]},
    }
    dataset = LeRobotDataset.create("local/still", fps=10, features=features, root=root, use_videos=False)
    image = np.random.default_rng(0).integers(60, 255, (32, 32, 3), dtype=np.uint8)
    for episode in range(2):
        for step in range(80):
            spike = 1000.0 if (episode, step) == (0, 3) else 0.0
            dataset.add_frame(
                {
                    "observation.image": image * (episode == 0),
                    "observation.state": np.array([step], dtype=np.float32),
                    "action": np.array([(-1.0) ** step, 0.5, spike], dtype=np.float32),
                    "task": " " if episode else "wait",
                }
            )
        dataset.save_episode()
    dataset.finalize()


@pytest.fixture
def write(datasets, tmp_path):
    """Returns `write(*entries, **fields) -> path` of a mixture file."""

    def write(*entries, **fields):
        entries = [entry | {"root": str(datasets / entry["root"])} for entry in entries]
        path = tmp_path / "mixture.yaml"
        path.write_text(yaml.safe_dump({"frame_gap_s": 0.4, "entries": entries} | fields))
        return path

    return write


@pytest.fixture
def built(write):
    """Returns `built(*entries, **fields) -> (MixtureDataset, policy configuration)`."""

    def built(*entries, **fields):
        path = write(*entries, **fields)
        policy = configure_policy(load_mixture(path), None)
        return build_mixture(load_mixture(path), policy, path=path, video_backend="pyav")[0], policy

    return built


def text_of(page):
    page = re.sub(r"(?s)<style>.*?</style>", "", page)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


def section(page, name):
    """The part of a page about one dataset."""
    parts = re.split(r'<h2[^>]* id="data-\d+">', page)[1:]
    return next(part for part in parts if re.match(rf"(?:<span[^>]*></span>)?{name}\n", part))


def shown_pairs(page, name):
    """For each pair of a dataset's section: instruction, episode, both frame numbers, and the images by camera."""
    for block in section(page, name).split('<div class="pair">')[1:]:
        block = block.split("<h3>")[0]
        numbers = re.search(r"episode (\d+), frames (\d+) and (\d+)", block)
        images = [
            [
                np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
                for content in re.findall(r'src="data:image/png;base64,([^"]+)"', camera)
            ]
            for camera in block.split('<div class="frames">')[1:]
        ]
        instruction = html.unescape(re.search(r"<blockquote>(.*?)</blockquote>", block)[1]).strip("“”")
        yield instruction, *(int(number) for number in numbers.groups()), images


def frame_of(dataset, episode, frame, camera):
    """(H, W, 3) uint8 frame of a LeRobotDataset, read by LeRobot."""
    item = dataset[int(dataset.meta.episodes["dataset_from_index"][episode]) + frame]
    assert item["frame_index"] == frame and item["episode_index"] == episode
    return (255 * item[camera]).round().byte().permute(1, 2, 0).numpy()


def test_numbers_of_a_mixture(write, tmp_path, capsys):
    path, out = write(ROBOT, ARM, VIDEO, STILL | {"weight": 0}), tmp_path / "new" / "page.html"
    assert main(["show-data", str(path), "--out", str(out), "--pairs=2"]) == 0
    assert f"Page: {out}" in capsys.readouterr().err
    page = out.read_text()
    text = text_of(page)
    assert "A mixture of 3 datasets, as lara would train on it" in text
    assert "units of robot" in text
    assert "Left out because of weight 0: still" in text
    robot, arm, video = (text_of(section(page, name)) for name in ("robot", "arm", "video"))
    assert "4 episodes 48 frames, 4.8 s 32 usable pairs 10 fps frame rate 4 frames frame gap, 0.4 s" in robot
    assert "2 episodes 16 frames, 3.2 s 12 usable pairs 5 fps frame rate 2 frames frame gap, 0.4 s" in arm
    assert "3 episodes 56 frames, 2.8 s 34 usable pairs 20 fps frame rate 8 frames frame gap, 0.4 s" in video
    # The smallest share per frame decides: 48 frames are a quarter of the draws.
    assert "25.0 % of samples, 48 draws robot embodiment, row 0, synthetic" in robot
    assert "25.0 % of samples, 48 draws arm embodiment, row 1" in arm
    assert "50.0 % of samples, 96 draws robot embodiment, row 0" in video
    assert "16 of 48 samples lie less than a frame gap before" in robot
    assert "The last frames of each episode, 22 in all" in video
    assert "observation.image observation.image 32×32 image unchanged" in robot
    assert (
        "observation.image observation.images.top 32×48 image 33% cut off at the sides, then resized" in arm
    )
    assert "observation.images.wrist missing : black, and masked" in arm
    assert "Not used: observation.images.side." in arm
    assert "2 distinct instructions, from LeRobot's tasks. “push” 2 episodes “pull <it>” 2 episodes" in robot
    assert "6 to 30 frames (0.3 to 1.5 s), median 20; 1 too short for a pair" in video
    assert "--policy.frame_gap=4 \\ --policy.max_action_dim=3" in text
    assert "http" not in re.sub(r"base64,[^\"]+", "", page), "the page must need nothing from elsewhere"
    assert len(list(shown_pairs(page, "arm"))) == 2


def test_shown_pairs_are_the_datasets_frames_k_apart(write, datasets, tmp_path):
    page = show_data(str(write(ROBOT, ARM, VIDEO)), out=tmp_path / "p.html").read_text()
    cameras = {"observation.image": slice(None), "observation.images.wrist": slice(None)}
    for name, gap, views in (
        ("robot", 4, cameras),
        ("arm", 2, {"observation.images.top": slice(8, 40)}),
        ("video", 8, {"observation.images.top": slice(None)}),
    ):
        dataset = LeRobotDataset(f"local/{name}", root=datasets / name)
        pairs = list(shown_pairs(page, name))
        assert len(pairs) == 6
        assert len({(episode, start) for _, episode, start, *_ in pairs}) == 6
        for instruction, episode, start, end, images in pairs:
            assert end == start + gap
            assert instruction == dataset.meta.episodes["tasks"][episode][0]
            assert len(images) == len(views)
            for (current, future, change), (camera, columns) in zip(images, views.items(), strict=True):
                truth = [frame_of(dataset, episode, number, camera)[:, columns] for number in (start, end)]
                np.testing.assert_array_equal(current, truth[0])
                np.testing.assert_array_equal(future, truth[1])
                # The brightest place of the difference image is where the frames differ most.
                difference = np.abs(truth[1].astype(int) - truth[0]).mean(-1)
                bright = change.astype(int).sum(-1) >= np.quantile(change.astype(int).sum(-1), 0.97)
                assert difference[bright].min() >= np.median(difference)
                assert difference[bright].max() > 60


@pytest.mark.parametrize("entries", [(ROBOT,), (ROBOT, VIDEO, ARM)])
def test_every_whole_pair_can_be_chosen_and_no_other(built, entries):
    dataset, _ = built(*entries)
    for number, entry in enumerate(dataset.entries):
        total = int(num_pairs(entry).sum())
        draws = choose_draws(dataset, number, 10_000, np.random.default_rng(0))
        found = set()
        for draw in draws:
            at, frame = dataset.schedule[draw]
            assert at == number
            position, row = entry.locate(frame)
            start = row - int(entry.reader.starts[position])
            assert start + frame_gap(entry) < entry.reader.lengths[position]
            found.add((position, start))
        assert len(found) == len(draws) == total


def test_shifts_move_all_images_of_a_sample_alike(write, tmp_path):
    page = show_data(str(write(ROBOT)), out=tmp_path / "p.html", random_shift=3, pairs=4).read_text()
    assert "random shifts of up to 3 pixels" in text_of(page)
    assert "--policy.random_shift=3" in page
    shifts = set()
    for *_, cameras in shown_pairs(page, "robot"):
        candidates = [
            {
                (down, right)
                for down in range(-3, 4)
                for right in range(-3, 4)
                if np.array_equal(shifted(images[frame], down, right), images[frame + 3])
            }
            for images in cameras
            for frame in (0, 1)
        ]
        assert len(candidates) == 4
        common = set.intersection(*candidates)
        assert len(common) == 1
        shifts |= common
    assert len(shifts) > 1


def shifted(image, down, right):
    padded = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode="edge")
    height, width = image.shape[:2]
    return padded[3 - down : 3 - down + height, 3 - right : 3 - right + width]


def test_image_transforms_are_shown_beside_the_original(write, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    pages = [
        show_data(str(write(STILL)), out=tmp_path / f"{run}.html", image_transforms=True, seed=seed)
        for run, seed in enumerate((0, 0, 1))
    ]
    assert torch.rand(1) == expected, "the caller's random numbers must not change"
    first, again, other = (page.read_text() for page in pages)
    assert first == again != other
    # Both frames get the same augmentation: where there was no motion, there is none.
    changed = []
    for _, episode, *_, images in shown_pairs(first, "still"):
        np.testing.assert_array_equal(images[0][0], images[0][1])
        np.testing.assert_array_equal(images[0][3], images[0][4])
        changed.append(episode == 1 or not np.array_equal(images[0][0], images[0][3]))
    assert all(changed) and len(changed) == 6


def test_the_seed_decides_the_augmentation(built):
    dataset, _ = built(ROBOT)
    generator = np.random.default_rng(0)
    pairs = read_pairs(dataset, choose_draws(dataset, 0, 6, generator), 2, generator)
    assert sum(pair.shown for pair in pairs) == 2
    first, again, other = (
        augment_pairs(dataset, pairs, image_transforms=None, shift=3, seed=seed) for seed in (0, 0, 1)
    )

    def alike(left, right):
        return all(
            torch.equal(a[camera], b[camera]) for a, b in zip(left, right, strict=True) for camera in a
        )

    assert alike(first, again) and not alike(first, other)


def test_without_augmentation_only_the_pair_is_shown(write, tmp_path):
    page = show_data(str(write(ROBOT)), out=tmp_path / "p.html").read_text()
    assert "without augmentation" in text_of(page)
    assert all(len(camera) == 3 for *_, cameras in shown_pairs(page, "robot") for camera in cameras)


def test_problems_of_a_dataset_without_motion(datasets, tmp_path):
    page = show_data(str(datasets / "still"), out=tmp_path / "p.html", frame_gap=5, pairs=50).read_text()
    assert len(list(shown_pairs(page, "still"))) == 50
    text = text_of(page)
    assert (
        "Many pairs show no motion: in 50 of 50 from observation.image, less than 0.5% of the pixels change visibly"
        in text
    )
    assert re.search(r"look still: \d+ of 100 frames of observation.image are black", text)
    assert "1 of 2 episodes have no instruction" in text
    assert "Action dimensions that never change: stuck." in text
    assert "Action dimensions with values more than 10 standard deviations from the middle: spike." in text
    assert "fine" not in text


def test_a_moving_dataset_has_no_problems(datasets, tmp_path):
    text = text_of(show_data(str(datasets / "robot"), out=tmp_path / "p.html", frame_gap=3).read_text())
    assert "fine Nothing stands out" in text
    assert "look " not in text.split("Pairs of frames")[0]


def test_problems_between_datasets(write, tmp_path):
    path = write(ROBOT | {"frame_gap_s": 0.2}, VIDEO)
    text = text_of(show_data(str(path), out=tmp_path / "p.html").read_text())
    assert "2.0 times further apart in one dataset than in another (robot 0.2 s, video 0.4 s)" in text
    assert "video: 1 of 3 episodes are too short for a pair: they have at most 8 frames" in text
    text = text_of(show_data(str(path), out=tmp_path / "p.html", frame_gap_s=0.3).read_text())
    assert "further apart" not in text
    assert "3 frames frame gap, 0.3 s" in text and "6 frames frame gap, 0.3 s" in text


def test_a_dataset_without_the_latent_action_models_camera(write, tmp_path):
    blind = ARM | {"cameras": {"observation.images.side": "observation.images.wrist"}}
    text = text_of(show_data(str(write(ROBOT, blind)), out=tmp_path / "p.html").read_text())
    assert "arm: It lacks observation.image, from which the latent action model learns" in text


def test_a_dimension_that_is_constant_in_the_reference_dataset_is_lost(write, tmp_path):
    text = text_of(show_data(str(write(STILL, ROBOT)), out=tmp_path / "p.html").read_text())
    assert "robot: Action dimensions that move here, but reach the policy as a constant" in text
    assert re.search(r"reference dataset's never change: 1\. Map", text)


@pytest.mark.parametrize("reference", ["robot", "arm"])
def test_ranges_are_the_datasets_and_histograms_the_policys(built, datasets, reference):
    mixed, policy = built(ROBOT, ARM, reference=reference)
    for number, name in enumerate(("robot", "arm")):
        dataset = LeRobotDataset(f"local/{name}", root=datasets / name)
        for vectors in describe_entry(mixed, number, policy)["vectors"]:
            values = np.stack([np.asarray(row) for row in dataset.hf_dataset[vectors["key"]]])
            assert (
                len(vectors["rows"]) == values.shape[1] == dataset.meta.features[vectors["key"]]["shape"][0]
            )
            for row, column in zip(vectors["rows"], values.T, strict=True):
                for statistic in ("min", "mean", "std", "max"):
                    assert row[statistic] == pytest.approx(getattr(column, statistic)(), abs=1e-5)
                normalized = (column - column.mean()) / (column.std() or 1)
                counts = np.histogram(
                    normalized, len(row["histogram"]), (-vectors["limit"], vectors["limit"])
                )[0]
                # Rounding may move a value over the edge of a bin.
                difference = np.cumsum(counts / counts.max()) - np.cumsum(row["histogram"])
                assert np.abs(difference).max() < 0.7
                assert row["constant"] == (column.std() == 0)


def test_values_beyond_the_axis_are_counted(built):
    dataset, policy = built(STILL)
    rows = {row["name"]: row for row in describe_entry(dataset, 0, policy)["vectors"][0]["rows"]}
    assert rows["spike"]["above"] == pytest.approx(1 / 160)
    assert rows["spike"]["furthest"] == pytest.approx(160**0.5, rel=0.01)
    assert rows["spike"]["outlier"] and not rows["lift"]["outlier"]
    assert rows["stuck"]["constant"] and not rows["lift"]["constant"]
    assert rows["lift"]["above"] == rows["lift"]["below"] == 0
    assert np.count_nonzero(rows["lift"]["histogram"]) == 2


def test_the_policy_fits_the_data(datasets, write):
    for name, kind in (("robot", "lara"), ("video", "lara_lam")):
        folder = str(datasets / name)
        policy = configure_policy(open_data(folder), None, frame_gap=3)
        assert policy.type == kind
        assert training_flags(policy, folder) == [
            f"--dataset.repo_id=local/{name}",
            f"--dataset.root={folder}",
            f"--policy.type={kind}",
            "--policy.frame_gap=3",
        ]
    path = write(ROBOT, ARM)
    policy = configure_policy(load_mixture(path), None)
    assert (policy.embodiments, policy.max_action_dim) == (["robot", "arm"], 3)
    assert policy.max_state_dim is None
    assert training_flags(policy, str(path))[0] == f"--dataset.repo_id={path}"


def test_actions_that_a_latent_action_model_ignores(datasets, tmp_path):
    out = tmp_path / "p.html"
    text = text_of(show_data(str(datasets / "robot"), out=out, policy="lara_lam", frame_gap=2).read_text())
    assert "The dataset has actions, which lara_lam does not use" in text
    assert "action-free" in text and "action dimensions" not in text


def test_flags_of_the_command(monkeypatch):
    calls = []
    monkeypatch.setattr(module, "show_data", lambda data, **options: calls.append((data, options)))
    flags = [
        "--out=p.html",
        "--policy=lara",
        "--random-shift=2",
        "--image-transforms",
        "--pairs=3",
        "--labels=labels",
        "--seed=4",
    ]
    assert main(["show-data", "you/data"]) == main(["show-data", "a.yaml", *flags, "--frame-gap=5"]) == 0
    assert main(["show-data", "a.yaml", "--frame-gap-s=0.5"]) == 0
    default = {"out": None, "policy": None, "frame_gap": None, "frame_gap_s": None}
    default |= {"random_shift": 0, "image_transforms": False, "pairs": 6, "labels": None, "seed": 0}
    given = {"out": "p.html", "policy": "lara", "frame_gap": 5, "frame_gap_s": None}
    given |= {"random_shift": 2, "image_transforms": True, "pairs": 3, "labels": "labels", "seed": 4}
    assert calls == [("you/data", default), ("a.yaml", given), ("a.yaml", default | {"frame_gap_s": 0.5})]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--policy=lara_dit"],
            r"`policy` is 'lara_dit'; it must be a type that learns from frame pairs. Pass one of \['lara', ",
        ),
        (["--pairs=0"], "`pairs` is 0; it must be at least 1"),
        (["--random-shift=-1"], "`random_shift`"),
        (["--frame-gap=0"], "`frame_gap` is 0"),
        (["--frame-gap-s=0"], "`frame_gap_s` is 0.0"),
        (["--frame-gap=12"], "leaves no pair of frames: the longest of 4"),
        (["--out=."], "`out` is the folder"),
    ],
)
def test_bad_flags(datasets, flags, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["show-data", str(datasets / "robot"), *flags]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.startswith("lara show-data: ")
    assert not list(tmp_path.iterdir())


def test_bad_data(write, datasets, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    wrong = str(write(ROBOT | {"cameras": {"observation.images.tip": "observation.image"}}))
    for data, message in (
        ("empty", "empty is not a LeRobotDataset: it has no meta/info.json"),
        ("./absent", "absent does not exist: it should be a folder"),
        ("data/of/absent", "absent does not exist: it should be a folder"),
        ("nobody/nothing", "the dataset nobody/nothing is not on this machine"),
        ("missing.yaml", "missing.yaml does not exist. Check the path"),
        (wrong, "maps 'observation.images.tip'; it must map cameras of the dataset"),
    ):
        assert main(["show-data", data]) == 2
        assert message in capsys.readouterr().err
    assert not list((tmp_path / "empty").iterdir())
    with pytest.raises(SystemExit):
        main(["show-data", str(datasets / "robot"), "--frame-gap=2", "--frame-gap-s=1"])
    with pytest.raises(ValueError, match="only one of them may be given"):
        show_data(str(datasets / "robot"), frame_gap=2, frame_gap_s=1.0)


def test_only_pages_of_ours_are_replaced(datasets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = str(datasets / "robot")
    page = show_data(data, frame_gap=2, pairs=1)
    assert page == Path("outputs/show_data/robot.html") and GENERATOR in page.read_text()[:500]
    assert show_data(data, frame_gap=3, pairs=1) == page
    assert "frame gap, 0.3 s" in text_of(page.read_text())
    page.write_text("<html>notes</html>")
    monkeypatch.setattr(module, "build_mixture", lambda *_: pytest.fail("must refuse before any work"))
    with pytest.raises(ValueError, match="which is not a page of `lara show-data`"):
        show_data(data, frame_gap=2)
    assert page.read_text() == "<html>notes</html>"


def test_large_images_are_embedded_small():
    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    kind, content = image_uri(image).removeprefix("data:image/").split(";base64,")
    assert kind == "jpeg"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (320, 240)
