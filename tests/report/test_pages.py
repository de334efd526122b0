"""The HTML pages: all in one file, nothing from elsewhere, true numbers, and working in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from scripts.report.case_page import doubts, region_table
from scripts.report.cohort_page import cohort_page
from scripts.report.outputs import SaveRegistration
from tests.report.test_outputs import prepared

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """(folder, data) of a registration whose file is named to do harm."""
    folder = tmp_path_factory.mktemp("case")
    data = prepared(folder)
    out = folder / "out"
    SaveRegistration(str(out), {"seed": 3, "note": "<script>alert(1)</script>"})(data)
    return out, data


def record_of(folder) -> dict:
    return json.loads((folder / "correspondence.json").read_text(encoding="utf-8"))


def images_of(text: str) -> dict[str, np.ndarray]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)" alt="([^"]*)"', text)
    return {alt: np.asarray(Image.open(io.BytesIO(base64.b64decode(code)))) for code, alt in found}


def test_one_file_with_everything_and_nothing_from_elsewhere(case):
    folder, _ = case
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)\s*=\s*\"(?!data:)|https?://|@import|url\(", text)
    assert "default-src 'none'" in text
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text
    dice = record_of(folder)["metrics"]["dice"]
    for stage in ("initial", "final"):
        assert f"<td>{dice[stage]['mean']:.4g}</td>" in text
    assert text.count("<tr><td>") >= 3 + len(record_of(folder)["pairs"])


def test_after_is_nearer_to_the_fixed_image_than_before(case):
    images = images_of((case[0] / "report.html").read_text(encoding="utf-8"))
    fixed, before, after = (images[name].astype(float) for name in ("fixed", "before", "after"))
    assert fixed.shape == before.shape == after.shape and max(fixed.shape) == 640
    assert np.abs(after - fixed).mean() < 0.9 * np.abs(before - fixed).mean()


def test_regions_come_by_their_weight(case):
    pairs = record_of(case[0])["pairs"]
    weights = {p["number"]: p["score"] * p["fixed"]["mm3"] ** 0.5 for p in pairs}
    shown = [int(n) for n in re.findall(r"<tr><td>(\d+)</td>", region_table(pairs))]
    assert shown == sorted(weights, key=weights.get, reverse=True)


def test_doubts_are_said(case):
    record = record_of(case[0])
    spacing = min(record["working_grid"]["spacing_mm"])
    record["metrics"] = {
        "field": {"mean_displacement_mm": 0.09 * spacing, "folds_percent": 1.1},
        "dice": {"initial": {"mean": 0.5}, "final": {"mean": 0.4}},
        "tre_mm": {"initial": {"mean": 5.0}, "final": {"mean": 4.0}},
    }
    said = doubts({**record, "pairs": record["pairs"][:2]})
    assert [s.split()[0] for s in said] == ["The", "1.1", "Only", "Dice"]
    record["metrics"]["field"] = {"mean_displacement_mm": 0.11 * spacing, "folds_percent": 0.9}
    record["metrics"]["dice"]["final"]["mean"] = 0.6
    assert doubts({**record, "pairs": record["pairs"][:3]}) == []


def test_the_cohort_leads_to_its_cases():
    rows = [
        {"name": "good & näh", "status": "registered", "matches": 3, "dice/mean/initial": 0.5, "dice/mean/final": 0.75},
        {"name": "poor", "status": "registered", "matches": 1, "dice/mean/initial": 0.5, "dice/mean/final": 0.25},
        {"name": "bad", "status": "failed", "error": "a<b"},
    ]
    numbers = {"mean": 0.5, "sd": 0.25, "n": 2}
    summary = {
        "registered": 2, "nothing_found": 0, "failed": 1, "seconds": 3.0, "pairs": rows,
        "metrics": {"dice/mean/initial": {**numbers, "sd": 0.0}, "dice/mean/final": numbers},
    }  # fmt: skip
    text = cohort_page(summary, {"good & näh"})
    assert re.findall(r'href="([^"]*)"', text) == ["good%20%26%20n%C3%A4h/report.html"]
    assert "good &amp; näh</a>" in text and "bad: a&lt;b" in text
    assert "<td>Dice</td><td>0.5 ± 0</td><td>–</td><td>0.5 ± 0.25</td><td>2</td>" in text
    assert text.index(">bad<") < text.index(">poor<") < text.index("good &amp; näh</a>")


@pytest.mark.skipif(BROWSER is None, reason="no chromium here")
def test_slider_and_choice_work_in_a_browser(case, tmp_path):
    """A script at the end of a copy does what a hand would do."""
    text = (case[0] / "report.html").read_text(encoding="utf-8")
    hand = """<script>const s=document.getElementById('slider');s.value=20;s.oninput({target:s});
    document.querySelector('input[value=before]').click();document.body.dataset.done='yes'</script></body>"""
    (tmp_path / "copy.html").write_text(text.replace("</body>", hand), encoding="utf-8")
    run = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--enable-logging=stderr", "--dump-dom", (tmp_path / "copy.html").as_uri()],
        capture_output=True, text=True, encoding="utf-8", timeout=200,
    )  # fmt: skip
    dom = run.stdout
    assert 'data-done="yes"' in dom, run.stderr[-2000:]
    assert "Uncaught" not in run.stderr and "Refused to" not in run.stderr
    assert re.search(r'id="stage" style="--x: ?20%;?"', dom)
    tags = re.findall(r"<img[^>]*class=\"top\"[^>]*>", dom)
    hidden = {re.search(r'data-name="(\w+)"', t)[1]: " hidden" in t for t in tags}
    assert hidden == {"after": True, "before": False}
