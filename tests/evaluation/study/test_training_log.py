import pytest

from lerobot_lara.evaluation.study.training_log import parse_training_log


def test_reads_every_metric_of_lerobots_tracker(tmp_path, training_log):
    curves = parse_training_log(training_log(tmp_path / "log", {"flow_loss": 0.9, "psnr": 24.0}))
    assert set(curves) == {"loss", "lr", "flow_loss", "psnr"}
    assert [step for step, _ in curves["loss"]] == [20, 40, 60, 80, 100]
    assert curves["lr"][0][1] == 5e-4
    # The first window's mean of 0.9 * exp(-step / 100), as printed with three decimals.
    assert curves["flow_loss"][0][1] == pytest.approx(0.812, abs=2e-3)


def test_counts_steps_that_lerobot_abbreviates(tmp_path, training_log):
    log = training_log(tmp_path / "log", {}, steps=2400, log_freq=400)
    assert "step:2K" in log.read_text()
    assert [step for step, _ in parse_training_log(log)["loss"]] == [400, 800, 1200, 1600, 2000, 2400]


def test_steps_that_a_resumed_run_does_again_are_read_once(tmp_path, training_log):
    log = training_log(tmp_path / "log", {}, steps=1700, log_freq=200)
    with log.open("a") as file:
        file.write(" 'checkpoint_path': '/demo/train/lara_8/checkpoints/001500',\n")
    training_log(log, {}, steps=500, log_freq=200, first_step=1500)
    steps = [step for step, _ in parse_training_log(log)["loss"]]
    assert steps[:7] == [200, 400, 600, 800, 1000, 1200, 1400]
    assert steps[7] == 1600 and steps == sorted(set(steps))


def test_refuses_to_guess_abbreviated_steps(tmp_path, training_log):
    log = training_log(tmp_path / "log", {}, steps=1200, log_freq=400)
    log.write_text(log.read_text().replace("log_freq", "other"))
    with pytest.raises(ValueError, match="log_freq"):
        parse_training_log(log)


def test_reads_held_out_loss_and_ignores_other_output(tmp_path):
    log = tmp_path / "log"
    log.write_text("INFO 2025-11-22 ot_train.py:560 step 40: eval_loss=0.1234\nstep: unrelated\nTraining: 3%")
    assert parse_training_log(log) == {"eval_loss": [(40, 0.1234)]}
