import json

import pytest

from lerobot_lara.cli import main


@pytest.mark.e2e
@pytest.mark.timeout(1800)
def test_quick_demo_runs_all_its_commands(tmp_path):
    assert main(["demo", "--quick", "--output-dir", str(tmp_path / "demo")]) == 0
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert results["arms"]["zero"] == {"door-close-v3": {"successes": 0, "episodes": 2}}
    assert results["arms"]["lara"]["door-close-v3"]["episodes"] == 2
    assert results["latent_action_model"]["pairs"] == 64
    page = (tmp_path / "demo" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 6
    assert "Its success rates\nmean nothing" in page or "Its success rates mean nothing" in page
