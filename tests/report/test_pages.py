"""The HTML pages: all in one file, nothing from elsewhere, true numbers, and working in a real browser."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from scripts.metrics.jacobian import jacobian_determinant
from scripts.report.case_page import PICTURES, doubts, region_table
from scripts.report.cohort_page import cohort_page
from scripts.report.panels import best_view, grid_lines, jacobian_map, panels, png
from scripts.workflow.outputs import SaveRegistration
from tests.workflow.test_outputs import prepared

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


def test_every_picture_has_a_place_of_its_own(case):
    images = images_of((case[0] / "report.html").read_text(encoding="utf-8"))
    asked = {alt for part in PICTURES.values() for alt in part.values()}
    assert set(images) == {"fixed", "before", "after"} | asked and len(asked) == 6
    assert all(images[alt].shape[:2] == (640, 640) for alt in asked)


def test_without_a_field_there_is_no_picture_of_one(case):
    _, data = case
    still = replace(data["pred"], ddf=None)
    drawn = panels(data["image"][0].as_tensor(), still, data["pair"].working.spacing)
    assert set(drawn) == {"moving", "fixed", "before"}


def test_folds_are_marked_where_they_are(case):
    """A field that runs backwards in a block of one slice: that slice is shown, and its block alone is marked."""
    _, data = case
    shape, spacing = data["pair"].working.shape, data["pair"].working.spacing
    ddf = torch.zeros(1, 3, *shape)
    ddf[0, 0, 20:41, 10:30, 7] = -1.5 * torch.arange(21.0)[:, None]
    view = replace(best_view(data["pred"], spacing), position=2)
    folds = jacobian_determinant(ddf)[0] <= 0
    assert folds[:, :, 7].sum() > 300 and not folds[..., :6].any()
    figure = Figure()
    jacobian_map(figure.subplots(), ddf, view)
    axis = figure.axes[0]
    assert "slice 7" in axis.get_title() and f"{float(folds.float().mean()):.3%}" in axis.get_title()
    marked = axis.images[1].get_array()
    expected = replace(view, position=7)(folds[None])
    np.testing.assert_array_equal(~np.ma.getmaskarray(marked), expected)
    assert axis.get_legend().get_texts()[0].get_text() == f"{int(expected.sum())} folds here"

    def coloured(field: torch.Tensor) -> int:
        drawn = np.asarray(Image.open(io.BytesIO(png(lambda axis: jacobian_map(axis, field, view)))).convert("RGB"))
        return int((np.abs(drawn.astype(int) - [255, 0, 208]).max(axis=-1) < 3).sum())

    assert coloured(ddf) > 1000 and coloured(torch.zeros(1, 3, *shape)) == 0


def test_grid_lines_lie_where_the_field_puts_them(case):
    _, data = case
    shape, spacing = data["pair"].working.shape, data["pair"].working.spacing
    view = best_view(data["pred"], spacing)
    rows_axis, columns_axis = (1, 0) if view.plan.transposed else (0, 1)
    ddf = torch.zeros(1, 3, *shape)
    ddf[:, rows_axis], ddf[:, columns_axis] = 3.0, -2.0
    axis = Figure().subplots()
    grid_lines(axis, np.zeros(view(torch.zeros(1, *shape)).shape), ddf, view)
    down, right = (-1 if flipped else 1 for flipped in view.plan.flips)
    first = axis.lines[0]
    np.testing.assert_allclose(first.get_ydata(), 3.0 * down)
    np.testing.assert_allclose(first.get_xdata(), np.arange(len(first.get_xdata())) - 2.0 * right)


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
    hand = """<script>const s=document.getElementById('slider'),g=document.getElementById('stage');
    document.getElementById('flicker').click();
    const seen=[];setTimeout(()=>seen.push(g.style.getPropertyValue('--x')),700);
    setTimeout(()=>{seen.push(g.style.getPropertyValue('--x'));document.getElementById('flicker').click();
    s.value=20;s.oninput({target:s});document.querySelector('input[value=before]').click();
    document.body.dataset.seen=seen.join();
    document.body.dataset.drawn=[...document.images].filter(i=>i.complete&&i.naturalWidth>99).length;
    document.body.dataset.done='yes'},1150)</script></body>"""
    (tmp_path / "copy.html").write_text(text.replace("</body>", hand), encoding="utf-8")
    run = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--enable-logging=stderr", "--virtual-time-budget=4000", "--dump-dom", (tmp_path / "copy.html").as_uri()],
        capture_output=True, text=True, encoding="utf-8", timeout=200,
    )  # fmt: skip
    dom = run.stdout
    assert 'data-done="yes"' in dom, run.stderr[-2000:]
    assert "Uncaught" not in run.stderr and "Refused to" not in run.stderr
    assert 'data-seen="100%,0%"' in dom  # the flicker shows one image after the other
    assert f'data-drawn="{3 + 6}"' in dom
    assert re.search(r'id="stage" style="--x: ?20%;?"', dom)
    tags = re.findall(r"<img[^>]*class=\"top\"[^>]*>", dom)
    hidden = {re.search(r'data-name="(\w+)"', t)[1]: " hidden" in t for t in tags}
    assert hidden == {"after": True, "before": False}
