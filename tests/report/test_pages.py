"""The HTML pages: each is one file that fetches nothing and shows the numbers of the record."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from scripts.metrics.jacobian import jacobian_determinant
from scripts.report.case_page import PICTURES, region_rows
from scripts.report.cohort_page import cohort_page, distribution
from scripts.report.panels import best_view, grid_lines, jacobian_map, panels, png
from scripts.workflow.outputs import SaveRegistration
from tests.workflow.registered import prepared


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """(folder, data) of a registration whose file has a malicious name."""
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
    page = re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL)  # the licence names the viewer's home page
    assert not re.findall(r"(?:src|href)\s*=\s*\"(?!data:)|https?://|@import|url\(", page)
    assert "default-src 'none'" in text
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text
    dice = record_of(folder)["metrics"]["dice"]
    for stage in ("initial", "final"):
        assert f"<td>{dice[stage]['mean']:.4g}</td>" in text
    assert text.count("<tr data-pair=") == len(record_of(folder)["pairs"])
    assert len(text) < 15e6


def test_every_picture_has_a_place_of_its_own(case):
    images = images_of((case[0] / "report.html").read_text(encoding="utf-8"))
    assert set(images) == {alt for part in PICTURES.values() for alt in part.values()} and len(images) == 6
    assert all(picture.shape[:2] == (640, 640) for picture in images.values())


def test_without_a_field_there_is_no_picture_of_one(case):
    _, data = case
    still = replace(data["pred"], ddf=None)
    drawn = panels(data["image"][0].as_tensor(), still, data["pair"].working.spacing)
    assert set(drawn) == {"moving", "fixed", "before"}


def test_folds_are_marked_where_they_are(case):
    """A field that folds in a block of one slice: that slice is shown, and only the block is marked."""
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


def test_regions_are_ordered_by_their_weight(case):
    pairs = record_of(case[0])["pairs"]
    weights = {p["number"]: p["score"] * p["fixed"]["mm3"] ** 0.5 for p in pairs}
    rows = region_rows(pairs)
    assert [row["number"] for row in rows] == sorted(weights, key=weights.get, reverse=True)
    text = (case[0] / "report.html").read_text(encoding="utf-8")
    assert [int(n) for n in re.findall(r'<tr data-pair="(\d+)">', text)] == [row["number"] for row in rows]


def test_the_cohort_leads_to_its_cases():
    rows = [
        {"name": "good & näh", "status": "registered", "matches": 3, "dice/mean/initial": 0.5, "dice/mean/final": 0.75},
        {"name": "poor", "status": "registered", "matches": 1, "dice/mean/initial": 0.5, "dice/mean/final": 0.25},
        {"name": "bad", "status": "failed", "error": "a<b"},
    ]
    numbers = {"mean": 0.5, "sd": 0.25, "n": 2}
    summary = {
        "registered": 2, "nothing_found": 0, "failed": 1, "doubted": 1, "seconds": 3.0, "pairs": rows,
        "metrics": {"dice/mean/initial": {**numbers, "sd": 0.0}, "dice/mean/final": numbers},
    }  # fmt: skip
    rows[1]["warnings"] = ["folds <much>"]
    text = cohort_page(summary, {"good & näh"})
    assert re.findall(r'href="([^"]*)"', text) == ["good%20%26%20n%C3%A4h/report.html"]
    assert "good &amp; näh</a>" in text and "bad: a&lt;b" in text and "poor: folds &lt;much&gt;" in text
    assert "<td>Dice</td><td>0.5 ± 0</td><td>–</td><td>0.5 ± 0.25</td><td>2</td>" in text
    table = text[text.index('<table id="cases">') :]
    assert table.index(">bad<") < table.index(">poor<") < table.index("good &amp; näh</a>")
    assert '<td data-value="0.25">0.25</td>' in table and '<td data-value="">–</td>' in table
    assert list(images_of(text)) == ["Dice by structure"]


def test_distributions_show_every_structure_before_and_after():
    rows = [{f"dice/{n}/{s}": v + k / 10 for n, v in (("mean", 0.5), ("left", 0.6)) for s in ("initial", "final")}
            for k in range(3)]  # fmt: skip
    axis = Figure().subplots()
    distribution(rows, "dice")(axis)
    assert [label.get_text() for label in axis.get_xticklabels()] == ["mean", "left"]
    points = [line for line in axis.lines if line.get_marker() == "."]
    assert len(points) == 4
    np.testing.assert_allclose(points[1].get_ydata(), [0.6, 0.7, 0.8])
    assert distribution(rows[:1], "dice") is None and distribution(rows, "tre_mm") is None
