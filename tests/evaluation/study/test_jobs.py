import json
import os
import signal
import sys
import time

import pytest
from filelock import FileLock
from tqdm import tqdm

from lerobot_lara.evaluation.study import jobs
from lerobot_lara.evaluation.study.jobs import Job, JobError, JobTime, busy_seconds, read_progress, run_jobs


@pytest.fixture(autouse=True)
def poll_often(monkeypatch):
    monkeypatch.setattr(jobs, "POLL_INTERVAL_S", 0.02)


@pytest.fixture
def script(tmp_path):
    """Returns `script(name, code, **options) -> Job`; every run of its code adds a line to `tmp_path/ran`."""

    def make(name, code="output.write_text('x')", **options):
        output = tmp_path / name
        prelude = (
            f"from pathlib import Path; output = Path({str(output)!r}); "
            f"file = open({str(tmp_path / 'ran')!r}, 'a'); file.write('{name}\\n'); file.close()\n"
        )
        return Job(name, f"Job {name}", ("python", "-c", prelude + code), output, **options)

    return make


def ran(tmp_path):
    log = tmp_path / "ran"
    lines = log.read_text().split() if log.is_file() else []
    log.unlink(missing_ok=True)
    return lines


def test_jobs_wait_for_what_they_need(tmp_path, script):
    study = [
        script("slow", "import time; time.sleep(0.5); output.write_text('x')"),
        script(
            "reader", f"assert Path({str(tmp_path / 'slow')!r}).exists(); output.mkdir()", needs=("slow",)
        ),
        script("other"),
    ]
    times = run_jobs(study, state_dir=tmp_path / "jobs")
    assert ran(tmp_path)[-1] == "reader"
    assert times["slow"].seconds >= 0.5
    assert times["reader"].started >= times["slow"].started + times["slow"].seconds - 0.1


def test_jobs_run_side_by_side_but_no_more_than_allowed(tmp_path, script):
    def study(prefix, code):
        return [script(f"{prefix}{i}", f"import time; {code}; output.write_text('x')") for i in range(2)]

    # Each waits for the other, which would take forever if it had to end before the other begins.
    wait = f"\nwhile len(Path({str(tmp_path / 'ran')!r}).read_text().split()) < 2: time.sleep(0.05)\n0"
    run_jobs(study("a", wait), state_dir=tmp_path / "a", num_parallel=2)
    in_turn = run_jobs(study("b", "time.sleep(1)"), state_dir=tmp_path / "b", num_parallel=1)
    assert in_turn["b1"].started - in_turn["b0"].started >= 1


def test_what_is_done_is_skipped_and_keeps_its_time(tmp_path, script):
    study = [script("first"), script("second", needs=("first",))]
    times = run_jobs(study, state_dir=tmp_path / "jobs")
    ran(tmp_path)
    assert run_jobs(study, state_dir=tmp_path / "jobs") == times
    assert ran(tmp_path) == []


def test_lost_output_is_made_again_with_all_that_reads_it(tmp_path, script):
    study = [script("first"), script("second", needs=("first",)), script("third")]
    run_jobs(study, state_dir=tmp_path / "jobs")
    ran(tmp_path)
    (tmp_path / "first").unlink()
    run_jobs(study, state_dir=tmp_path / "jobs")
    assert ran(tmp_path) == ["first", "second"]


def test_cut_off_job_starts_again_without_its_leftovers(tmp_path, script):
    code = "assert not output.exists(); output.mkdir(); (output / 'product').write_text('x')"
    job = script("job", code, product=tmp_path / "job" / "product")
    (tmp_path / "job").mkdir()
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "job.json").write_text(json.dumps({"status": "running"}))
    run_jobs([job], state_dir=tmp_path / "jobs")
    assert job.is_complete


def test_interrupted_job_is_continued_from_what_it_has_left(tmp_path, script):
    def resume():
        assert (tmp_path / "job").read_text() == "half"
        return ("python", "-c", f"open({str(tmp_path / 'job')!r}, 'a').write(' and half'); print('second')")

    job = script(
        "job", "output.write_text('half'); print('first', flush=True); raise SystemExit(3)", resume=resume
    )
    with pytest.raises(JobError):
        run_jobs([job], state_dir=tmp_path / "jobs")
    started = json.loads((tmp_path / "jobs" / "job.json").read_text())["started"]
    times = run_jobs([job], state_dir=tmp_path / "jobs")
    assert (tmp_path / "job").read_text() == "half and half"
    assert (tmp_path / "jobs" / "job.log").read_text().split() == ["first", "second"]
    assert times["job"].seconds >= 0
    assert times["job"].started >= started, "the time between the runs does not count"


@pytest.mark.parametrize("changed", ["command", "input"])
def test_interrupted_job_that_reads_something_else_starts_again(tmp_path, script, changed):
    def resume():
        pytest.fail("continued")

    (tmp_path / "jobs").mkdir()
    job = script("job", needs=("data",), resume=resume)
    command = list(job.command) if changed == "input" else ["other"]
    record = {"status": "running", "started": 0.0, "command": command, "inputs": {}}
    (tmp_path / "jobs" / "job.json").write_text(json.dumps(record))
    data = script("data")
    if changed == "command":
        run_jobs([data], state_dir=tmp_path / "jobs")
    assert run_jobs([data, job], state_dir=tmp_path / "jobs").keys() == {"data", "job"}


@pytest.mark.parametrize(
    "record",
    [
        *("", '{"status": "do', "[]", "null", "[" * 100_000, '{"status": "done"}'),
        '{"status": "done", "command": [], "inputs": {}}',
        '{"status": "done", "command": [1], "inputs": {}, "started": 1, "seconds": 1}',
        '{"status": "done", "command": "ls", "inputs": [["a"]], "started": 1, "seconds": 1}',
        '{"status": "done", "command": [], "inputs": {}, "started": NaN, "seconds": 1}',
        '{"status": "done", "command": [], "inputs": {}, "started": 1, "seconds": -1}',
        '{"status": "done", "command": [], "inputs": {}, "started": 1e400, "seconds": 1}',
        f'{{"status": "done", "command": [], "inputs": {{}}, "started": {10**400}, "seconds": 1}}',
        '{"status": ["done"], "command": [], "inputs": {}}',
    ],
)
def test_job_with_a_torn_record_is_done_again(tmp_path, script, record, caplog):
    job = script("job")
    run_jobs([job], state_dir=tmp_path / "jobs")
    ran(tmp_path)
    (tmp_path / "jobs" / "job.json").write_text(record)
    run_jobs([job], state_dir=tmp_path / "jobs")
    assert ran(tmp_path) == ["job"] and "is not the record of a job" in caplog.text


def test_the_same_jobs_do_not_run_twice_at_a_time(tmp_path, script):
    with FileLock(tmp_path / "jobs.lock"), pytest.raises(ValueError, match="another run is writing now"):
        run_jobs([script("job")], state_dir=tmp_path / "jobs")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, children outlive a killed study")
def test_children_end_with_a_killed_study(tmp_path, script):
    pid_file = tmp_path / "pid"
    write_pid = f"import os, time; Path({str(pid_file)!r}).write_text(str(os.getpid()))"
    study = os.fork()
    if study == 0:
        try:
            run_jobs([script("job", f"{write_pid}; time.sleep(60)")], state_dir=tmp_path / "jobs")
        finally:
            os._exit(1)
    while not pid_file.exists() or not pid_file.read_text():
        time.sleep(0.02)
    os.kill(study, signal.SIGKILL)
    os.waitpid(study, 0)
    deadline = time.monotonic() + 20
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(int(pid_file.read_text()), 0)
            time.sleep(0.02)


def test_output_that_is_not_the_jobs_is_left_alone(tmp_path, script):
    (tmp_path / "job").write_text("precious")
    with pytest.raises(ValueError, match="has not run here"):
        run_jobs([script("job")], state_dir=tmp_path / "jobs")
    assert (tmp_path / "job").read_text() == "precious"


@pytest.mark.parametrize("changed", ["command", "configuration"])
def test_other_settings_are_refused(tmp_path, script, changed):
    config = tmp_path / "config.yaml"
    config.write_text("steps: 1")
    run_jobs([script("job", inputs=(config,))], state_dir=tmp_path / "jobs")
    if changed == "configuration":
        config.write_text("steps: 2")
        job = script("job", inputs=(config,))
    else:
        job = script("job", "output.write_text('y')", inputs=(config,))
    with pytest.raises(ValueError, match=r"(?s)other settings.*delete that one"):
        run_jobs([job], state_dir=tmp_path / "jobs")


def test_failure_shows_command_and_end_of_log_and_ends_the_others(tmp_path, script):
    pid_file = tmp_path / "pid"
    write_pid = f"import os, time; Path({str(pid_file)!r}).write_text(str(os.getpid()))"
    endless = script("endless", f"{write_pid}; time.sleep(60)")
    failing = script("failing", "import sys, time; time.sleep(2); print('reason\\nlast words'); sys.exit(3)")
    started = time.monotonic()
    with pytest.raises(JobError) as error:
        run_jobs([endless, failing, script("later", needs=("failing",))], state_dir=tmp_path / "jobs")
    assert time.monotonic() - started < 60
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)
    assert "Job failing failed: exit status 3" in str(error.value)
    assert "| reason\n  | last words" in str(error.value)
    assert "python -c" in str(error.value)
    assert sorted(ran(tmp_path)) == ["endless", "failing"]


def test_job_without_its_product_has_failed(tmp_path, script):
    with pytest.raises(JobError, match="was not written"):
        run_jobs([script("job", "pass")], state_dir=tmp_path / "jobs")


def test_failed_job_runs_again(tmp_path, script):
    job = script("job", f"assert Path({str(tmp_path / 'cured')!r}).exists(); output.write_text('x')")
    with pytest.raises(JobError):
        run_jobs([job], state_dir=tmp_path / "jobs")
    (tmp_path / "cured").touch()
    assert run_jobs([job], state_dir=tmp_path / "jobs").keys() == {"job"}


def test_an_input_that_is_replaced_while_its_job_runs_is_noticed_the_next_time(tmp_path, script):
    file = tmp_path / "weights"
    file.write_text("old")
    code = f"output.write_text(Path({str(file)!r}).read_text()); Path({str(file)!r}).write_text('newer')"
    job = script("job", code, inputs=(file,))
    run_jobs([job], state_dir=tmp_path / "jobs")
    with pytest.raises(ValueError, match="was made with other settings"):
        run_jobs([job], state_dir=tmp_path / "jobs")


def test_unknown_need_is_an_error_and_not_an_endless_wait(tmp_path, script):
    with pytest.raises(ValueError, match="need jobs that are not in the study"):
        run_jobs([script("job", needs=("nothing",))], state_dir=tmp_path / "jobs")


def test_children_have_one_thread_and_no_network(tmp_path, script):
    code = "import os; assert os.environ['OMP_NUM_THREADS'] == os.environ['HF_HUB_OFFLINE'] == '1'; output.touch()"
    run_jobs([script("job", code)], state_dir=tmp_path / "jobs")


def test_children_may_be_online_if_they_are_told_so(tmp_path, script, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    code = "import os; assert 'HF_HUB_OFFLINE' not in os.environ; output.touch()"
    run_jobs([script("job", code)], state_dir=tmp_path / "jobs", offline=False)


def test_progress_is_read_from_the_right_bar(tmp_path):
    log = tmp_path / "log"
    assert read_progress(log, "Training") is None
    with log.open("w") as file:
        for description, total, done in [("Training", 800, 96), ("Running rollout with 9 steps", 9, 3)]:
            with tqdm(total=total, desc=description, unit="step", file=file, mininterval=0) as bar:
                bar.update(done)
    assert read_progress(log, "Training") == (96, 800)
    assert read_progress(log, "Running rollout") == (3, 9)
    assert read_progress(log, "") is None


def test_busy_time_counts_overlaps_once_and_gaps_never():
    assert (
        busy_seconds([JobTime(100.0, 10.0), JobTime(105.0, 10.0), JobTime(200.0, 1.0), JobTime(102.0, 2.0)])
        == 16
    )


def test_shell_line_is_relative_to_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert jobs.shell_line(("lara", f"--root={tmp_path / 'a b'}")) == "lara '--root=a b'"


def test_programs_beside_the_interpreter_are_found():
    assert jobs._resolve_program("python") == sys.executable
    assert jobs._resolve_program("lerobot-train").endswith("lerobot-train")
