"""What the data brings for the policies of LeRobot that can be aligned: frame pairs, mixtures with video, bad input."""

import json

import pytest
import torch
import yaml
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.factory import get_policy_class
from support.helpers import run_train
from support.tiny_bases import CAMERA, features
from support.tiny_datasets import REPO_ID, make_tiny_dataset

from lerobot_lara.data.mixture.build import build_mixture
from lerobot_lara.data.mixture.config import load_mixture

MASKS = {"smolvla", "groot", "groot_n16", "vla_jepa", "evo1"}
one_base = pytest.mark.parametrize("tiny_base", ["smolvla"], indirect=True)


def write_mixture(tiny_base, folder, robot=None):
    """A robot's dataset, the base's own unless given, and video of one camera without actions, state or a robot."""
    size = 64 if str(tiny_base.data).endswith("64") else 32
    make_tiny_dataset(
        folder / "video",
        num_episodes=2,
        num_frames=16,
        size=size,
        action=False,
        state=False,
        cameras=("observation.images.cam",),
        seed=3,
    )
    entries = [
        {"name": "robot", "repo_id": REPO_ID, "root": str(robot or tiny_base.data), "embodiment": "arm"},
        {
            "name": "video",
            "repo_id": "local/video",
            "root": str(folder / "video"),
            "action_free": True,
            "embodiment": "human",
            "cameras": {"observation.images.cam": CAMERA},
        },
    ]
    (folder / "mixture.yaml").write_text(yaml.safe_dump({"entries": entries}))
    return {"dataset__repo_id": folder / "mixture.yaml", "dataset__root": None}


def test_video_is_mixed_in_where_the_base_masks_actions(tiny_base, tmp_path):
    flags = write_mixture(tiny_base, tmp_path)
    if tiny_base.name not in MASKS:
        with pytest.raises(ValueError, match=rf"lara_{tiny_base.name}.*cannot learn from samples without"):
            tiny_base.train(tmp_path / "run", **flags)
        return
    run = tiny_base.train(tmp_path / "run", batch_size=8, **flags)
    assert all(metrics["alignment_loss"] > 0 for metrics in run.metrics)
    record = json.loads((run.checkpoint / "mixture.json").read_text())
    assert [entry["frame_pair"] for entry in record["entries"]] == [[0, 4], [0, 4]]
    resumed = run_train(
        config_path=run.checkpoint / "train_config.json", resume=True, steps=4, output_dir=None
    )
    assert len(resumed.metrics) == 1


@pytest.mark.parametrize("tiny_base", ["multi_task_dit"], indirect=True)
def test_a_base_that_is_told_to_mask_actions_takes_video(tiny_base, tmp_path):
    flags = write_mixture(tiny_base, tmp_path) | {"policy__do_mask_loss_for_padding": True}
    run = tiny_base.train(tmp_path / "run", batch_size=8, **flags)
    assert all(metrics["alignment_loss"] > 0 for metrics in run.metrics)


@pytest.mark.parametrize("tiny_base", ["groot"], indirect=True)
def test_video_that_lacks_a_camera_brings_no_flags(tiny_base, tmp_path):
    """The base's own samples have none of a camera, as its observations are of one frame."""
    cameras = (CAMERA, "observation.images.side")
    robot = make_tiny_dataset(tmp_path / "robot", num_frames=16, size=64, cameras=cameras)
    flags = write_mixture(tiny_base, tmp_path, robot)
    config, path = tiny_base.config(**features(64, cameras)), flags["dataset__repo_id"]
    mixed, _ = build_mixture(load_mixture(path), config, path=path, video_backend="pyav")
    for entry in mixed.entries:
        sample = entry[0]
        assert set(cameras) < sample.keys()
        assert not {f"{camera}_is_pad" for camera in cameras} & sample.keys()
        assert sample[cameras[1]].any() == entry.labeled
    run = tiny_base.train(tmp_path / "run", batch_size=8, **flags)
    assert all(metrics["alignment_loss"] > 0 for metrics in run.metrics)


@pytest.mark.parametrize("tiny_base", sorted(MASKS), indirect=True)
def test_a_masking_base_learns_nothing_from_the_actions_of_video(tiny_base):
    """What stands in their place does not matter to its loss."""
    policy = tiny_base.policy().eval()
    dataset, preprocess = tiny_base.data_and_preprocessor()
    losses = []
    for value in (0.0, 0.5):
        batch = torch.utils.data.default_collate([dataset[0], dataset[1]])
        batch["action"][0], batch["action_is_pad"][0] = value, True
        prepared = preprocess(batch)
        torch.manual_seed(0)
        losses.append(policy.flow_loss(prepared)[0].item())
    assert losses[0] == losses[1] > 0


@one_base
@pytest.mark.parametrize("storage", ["image", "video"])
def test_the_view_leaves_samples_as_they_are(tiny_base, tmp_path, storage, monkeypatch):
    """Also LeRobot's augmentation, which both frames of a pair get alike."""
    from lerobot.scripts import lerobot_train

    root = make_tiny_dataset(
        tmp_path / "data", num_frames=16, cameras=(CAMERA, "observation.images.side"), storage=storage
    )
    made = {}
    original = lerobot_train.make_train_eval_datasets

    def keep(kind):
        def make(cfg):
            made[kind] = original(cfg)
            raise InterruptedError

        monkeypatch.setattr(lerobot_train, "make_train_eval_datasets", make)

    for kind, aligned in (("aligned", True), ("plain", False)):
        keep(kind)
        camera = {"policy__lam_camera": "observation.images.side"} if aligned else {}
        with pytest.raises(InterruptedError):
            tiny_base.train(
                tmp_path / kind,
                aligned=aligned,
                dataset__root=root,
                dataset__image_transforms__enable=True,
                dataset__eval_split=0.5,
                **camera,
            )
    for part in (0, 1):
        view, plain = made["aligned"][part], made["plain"][part]
        assert len(view) == len(plain) and view.meta.stats.keys() == plain.meta.stats.keys()
        for row in (0, 5, 13):
            torch.manual_seed(row)
            ours = view[row]
            torch.manual_seed(row)
            theirs = plain[row]
            assert ours.keys() - theirs.keys() == {"observation.frame_pair", "observation.frame_pair_is_pad"}
            for key, value in theirs.items():
                assert (
                    torch.equal(ours[key], value) if isinstance(value, torch.Tensor) else ours[key] == value
                )
            pair = ours["observation.frame_pair"]
            present = theirs["observation.images.side"].reshape(3, 32, 32)  # a window of one frame
            assert torch.equal(pair[0], present)
            assert ours["observation.frame_pair_is_pad"].tolist() == [False, row == 13]
    # Without augmentation, the second frame is the dataset's own, 4 frames on.
    view, plain = made["aligned"][1], made["plain"][1]
    future = plain[9]["observation.images.side"].reshape(3, 32, 32)
    assert torch.equal(view[5]["observation.frame_pair"][1], future)
    assert not torch.equal(view[5]["observation.frame_pair"][0], future)


@one_base
def test_only_one_frame_more_is_decoded(tiny_base, tmp_path, monkeypatch):
    from lerobot_lara.data.frame_pair_view import FramePairView
    from lerobot_lara.data.mixture.reader import ColumnReader

    root = make_tiny_dataset(
        tmp_path / "data", num_frames=16, cameras=(CAMERA, "observation.images.side"), storage="video"
    )
    dataset = LeRobotDataset(REPO_ID, root=root, return_uint8=True)
    decoded = []
    images = ColumnReader.images
    monkeypatch.setattr(
        ColumnReader, "images", lambda self, *given: decoded.append(given) or images(self, *given)
    )
    view = FramePairView(
        dataset,
        camera=CAMERA,
        frame_gap=4,
        observation_deltas=None,
        video_backend="pyav",
        tolerance_s=1e-4,
    )
    pair = view[20]["observation.frame_pair"]
    assert decoded == [(CAMERA, 1, [24])]
    assert torch.equal(pair[0], dataset[20][CAMERA]) and torch.equal(pair[1], dataset[24][CAMERA])
    assert view[31]["observation.frame_pair_is_pad"].tolist() == [False, True] and len(decoded) == 1


@one_base
def test_workers_and_renamed_cameras(tiny_base, tmp_path):
    root = make_tiny_dataset(tmp_path / "data", num_frames=16, cameras=("observation.images.cam",))
    renamed = json.dumps({"observation.images.cam": CAMERA})
    start = tiny_base.train(tmp_path / "start", steps=1).checkpoint
    run = run_train(
        policy__path=start,
        dataset__root=root,
        output_dir=tmp_path / "run",
        rename_map=renamed,
        num_workers=2,
        steps=3,
    )
    assert all(metrics["alignment_loss"] > 0 for metrics in run.metrics)


@one_base
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"policy__alignment_layer": 5},
            "`alignment_layer` is 5; it must be one of the policy's blocks 1 to 4",
        ),
        ({"policy__frame_gap": 3}, "frame gap of 4 control steps, but `frame_gap` is 3"),
        ({"policy__lam_camera": "observation.images.top"}, "`lam_camera` is .*top'; it must be one of"),
        ({"policy__lam_path": None}, "`lam_path` is missing"),
        ({"dataset__streaming": True}, "`dataset.streaming` is true; it must be false for .*lara_smolvla"),
    ],
)
def test_bad_flags(tiny_base, tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        tiny_base.train(tmp_path / "run", **flags)


@pytest.mark.parametrize("tiny_base", ["xvla"], indirect=True)
def test_xvla_has_no_learning_rate_for_the_lam(tiny_base, tmp_path):
    with pytest.raises(ValueError, match=r"`lam_lr` is 0\.001, but this policy's optimizer chooses"):
        tiny_base.train(tmp_path / "run", policy__lam_lr=1e-3)


@pytest.mark.parametrize(
    ("tiny_base", "module", "package"),
    [("groot", "tree", "dm-tree"), ("wall_x", "torchdiffeq", "torchdiffeq")],
    indirect=["tiny_base"],
)
def test_a_missing_package_is_named(tiny_base, module, package, monkeypatch):
    from lerobot_lara.alignment.bases import lerobot_policy

    find = lerobot_policy.find_spec
    monkeypatch.setattr(lerobot_policy, "find_spec", lambda name: None if name == module else find(name))
    with pytest.raises(
        ValueError, match=rf"package\(s\) {package}. Install them with `pip install {package}`"
    ):
        tiny_base.policy()


@one_base
def test_an_aligned_checkpoint_for_the_plain_base_is_refused(tiny_base, tmp_path):
    start = tiny_base.train(tmp_path / "start", steps=1).checkpoint
    with pytest.raises(ValueError, match=r"is a checkpoint of type 'lara_smolvla'.*lara export-base"):
        tiny_base.train(tmp_path / "run", aligned=False, policy__pretrained_path=start)


@one_base
def test_a_base_with_foreign_code_among_its_processors_is_refused(tiny_base, tmp_path):
    start = tiny_base.train(tmp_path / "start", aligned=False, steps=1).checkpoint
    file = start / "policy_preprocessor.json"
    pipeline = json.loads(file.read_text())
    pipeline["steps"].append({"class": "os.system", "config": {}})
    file.write_text(json.dumps(pipeline))
    with pytest.raises(ValueError, match=r"policy_preprocessor\.json.*os\.system"):
        tiny_base.train(tmp_path / "run", policy__pretrained_path=start)


@one_base
def test_an_adapter_with_foreign_code_among_its_processors_is_refused(tiny_base, tmp_path):
    """LeRobot takes the weights of the base that the adapter names, and the processors of the adapter."""
    tiny_base.policy().save_pretrained(tmp_path / "base")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    pipeline = {"name": "policy_preprocessor", "steps": [{"class": "os.system", "config": {}}]}
    (adapter / "policy_preprocessor.json").write_text(json.dumps(pipeline))
    policy_class = get_policy_class("lara_smolvla")
    with pytest.raises(ValueError, match=r"adapter/policy_preprocessor\.json.*os\.system"):
        policy_class.from_pretrained(tmp_path / "base", config=tiny_base.config(pretrained_path=adapter))


@pytest.mark.parametrize("tiny_base", ["groot", "groot_n16"], indirect=True)
@pytest.mark.parametrize("model_type", ["Gr00tN1d6", "Gr00tN1d7", "gr00t_n1_5"])
def test_another_generation_of_gr00t_is_refused(tiny_base, tmp_path, model_type):
    generation = {"Gr00tN1d6": "N1.6", "Gr00tN1d7": "N1.7", "gr00t_n1_5": "N1.5"}[model_type]
    if generation == {"groot": "N1.7", "groot_n16": "N1.6"}[tiny_base.name]:
        pytest.skip("its own")
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, "architectures": [model_type]}))
    with pytest.raises(ValueError, match=rf"is of GR00T {generation}; it must be of GR00T"):
        tiny_base.train(tmp_path / "run", policy__pretrained_path=folder)


@pytest.mark.parametrize("tiny_base", ["groot"], indirect=True)
def test_groot_starts_from_nvidias_own_layout(tiny_base, tmp_path):
    release = tiny_base.options["base_model_path"]
    run = tiny_base.train(tmp_path / "run", steps=1, policy__pretrained_path=release)
    assert run.metrics[0]["alignment_loss"] > 0
