"""Files that jobs have written and that are torn or odd are named, with the way to have them again."""

import json

import pytest

from lerobot_lara.evaluation.demo_results import read_probe
from lerobot_lara.evaluation.study.metaworld_jobs import MetaworldJobs, read_outcomes
from lerobot_lara.evaluation.study.training_log import parse_training_log

OUTCOMES = (
    *(
        "",
        "{",
        "[]",
        "null",
        "[" * 100_000,
        "{}",
        '{"per_task": null}',
        '{"per_task": []}',
        '{"per_task": [1]}',
    ),
    *(
        '{"per_task": [{"task_group": "a"}]}',
        '{"per_task": [{"task_group": "a", "metrics": {"successes": 3}}]}',
    ),
    '{"per_task": [{"task_group": "a", "metrics": {"successes": []}}]}',
)


@pytest.mark.parametrize("text", OUTCOMES)
def test_outcomes(tmp_path, text):
    path = tmp_path / "eval_info.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"eval_info\.json .*Delete it, and run the same command again"):
        read_outcomes(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"eval_info\.json is missing. Run the same command again"):
        read_outcomes(tmp_path / "eval_info.json")


@pytest.mark.parametrize(
    "content", [{}, {"models": []}, {"models": [{"prediction": 3}]}, {"models": [{}, {}]}, {"models": None}]
)
def test_measurements_of_the_probe(tmp_path, content):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({"pairs": 1, "frame_gap": 2, "fps": 0} | content))
    with pytest.raises(ValueError, match=r"metrics\.json does not hold what was written there"):
        read_probe(path)


@pytest.mark.parametrize(
    "text", ["", "policy: 3", "policy: {n_action_steps: x}", "policy: {n_action_steps: 0}", "["]
)
def test_configurations_of_trainings(tmp_path, text):
    path = tmp_path / "dit.yaml"
    path.write_text(text)
    study = MetaworldJobs(
        tmp_path, namespace="a", tasks=("t",), image_size=8, num_episodes=1, episode_length=9, eval_seed=0
    )
    with pytest.raises(ValueError, match=r"dit\.yaml"):
        study.evaluation("dit", "Evaluate", config=path)


def test_a_log_with_words_where_numbers_must_be(tmp_path):
    path = tmp_path / "train.log"
    path.write_text("step:5 smpl:1 ep:1 epch:1 loss:abc")
    with pytest.raises(ValueError, match=r"train\.log is damaged: it logs 'abc'"):
        parse_training_log(path)
