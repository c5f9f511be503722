import re

from lerobot_lara.evaluation import report


def page_of(results):
    """Renders the page without figures."""
    return report.render_page(report.describe_results(results), {})


def text_of(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<style>.*?</style>", "", page)))


def test_report_states_that_lara_wins(study, results):
    finished = results(dit=(18, 0), lara=(20, 12))
    page = report.write_report(finished, study(finished)).read_text()
    text = text_of(page)
    assert "LARA solves the tasks more often than DiT only: LARA 32/40 (80%), DiT only 18/40 (45%)" in text
    assert "Never solved: DiT only on drawer-open-v3 (0/20)." in text
    assert text.count("passed") == 3
    assert "FAILED" not in text
    assert "70–97" in text  # the Wilson interval of 18/20
    assert page.count("data:image/png;base64,") == 6
    assert page.count('src="data:video/mp4;base64,') == 8, "one film of each policy on each task"
    assert "No figure" not in text
    assert "lerobot-eval_lara \\\n    --flag=&lt;eval_lara&gt;" in page
    assert "http" not in re.sub(r"base64,\S+", "", page), "the page must need nothing from elsewhere"


def test_report_states_that_the_baseline_wins(results):
    text = text_of(page_of(results(dit=(20, 18), lara=(3, 0))))
    assert "DiT only solves the tasks more often than LARA: LARA 3/40 (8%), DiT only 38/40 (95%)" in text
    assert "Never solved: LARA on drawer-open-v3 (0/20)." in text


def test_report_does_not_claim_a_difference_that_may_be_chance(results):
    comparison = report.describe_results(results(dit=(17, 16), lara=(18, 17)))["comparisons"][0]
    assert "within noise" in comparison
    assert (
        "LARA and DiT only are equal"
        in report.describe_results(results(dit=(17, 16), lara=(16, 17)))["comparisons"][0]
    )


def test_report_warns_of_what_failed(tmp_path, results, caplog, monkeypatch):
    monkeypatch.setattr(report, "draw_figures", lambda results, output_dir: {})
    monkeypatch.setattr(report, "_films", lambda results, output_dir: [])
    text = text_of(
        report.write_report(
            results(
                dit=(2, 0), lara=(3, 1), labels=(0, 0), mixture=(0, 0), zero=4, motion="failed", psnr=22.0
            ),
            tmp_path,
        ).read_text()
    )
    assert text.count("failed The tasks are learned") == 1
    assert text.count("failed Success is meaningful") == text.count("failed Latent actions carry") == 1
    assert "A robot that does nothing is counted as successful on door-close-v3 (4/20)" in text
    assert "Latent actions carry motion. The PSNR is 22.0 dB" in text
    assert "The best policy solves 10% of all episodes" in text
    assert caplog.text.count("CHECK FAILED") == 3


def test_latent_check_is_the_probes_verdict(results):
    for motion in ("passed", "failed", "not measured"):
        described = report.describe_results(results(dit=(1, 1), lara=(1, 1), motion=motion))
        assert described["checks"][2]["outcome"] == motion
    assert [verdict["name"] for verdict in described["verdicts"]] == ["Latent actions have not collapsed"]
    text = text_of(report.render_page(described, {}))
    assert "not measured Latent actions have not collapsed. The effective rank is 9.0 of 32." in text


def test_report_of_a_model_that_predicts_no_frames(results):
    featureless = results(dit=(1, 1), lara=(1, 1), motion="not measured")
    featureless["latent_action_model"] |= dict.fromkeys(("psnr", "shuffled_psnr", "copy_psnr"))
    assert "this model predicts features, not frames" in text_of(page_of(featureless))


def test_report_says_that_a_quick_run_means_nothing(results):
    quick = results(dit=(0, 0), lara=(0, 0))
    quick["settings"]["training_flags"] = ["--steps=10"]
    assert "Its success rates mean nothing" in text_of(page_of(quick))


def test_report_says_which_figure_is_missing(study, results):
    finished = results(dit=(5, 5), lara=(5, 5))
    output_dir = study(finished)
    for video in output_dir.rglob("*.mp4"):
        video.unlink()
    (output_dir / "jobs" / "train_lara_lam.log").write_text("nothing logged")
    text = text_of(report.write_report(finished, output_dir).read_text())
    assert text.count("No figure") == 2


def test_film_strip_shows_the_first_filmed_success(study, results):
    finished = results(dit=(0, 5), lara=(20, 0))  # failures come first
    films = list(report._films(finished, study(finished)))
    assert [film.label for film in films] == [
        "door-close-v3, DiT only, episode 0: not solved",
        "door-close-v3, LARA, episode 0: solved",
        "door-close-v3, LARA on labels, episode 19: solved",
        "door-close-v3, LARA on the mixture, episode 19: solved",
        "drawer-open-v3, DiT only, episode 19: solved",
        "drawer-open-v3, LARA, episode 0: not solved",
        "drawer-open-v3, LARA on labels, episode 19: solved",
        "drawer-open-v3, LARA on the mixture, episode 19: solved",
    ]
    frames = report.read_frames(films[0].video, 8)
    assert frames.shape == (8, 64, 64, 3)
    assert abs(int(frames[0].mean()) - int(frames[-1].mean())) < 60
