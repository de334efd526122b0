"""The pages in a real browser, offline: volumes appear, crosshairs follow the field, tables sort."""

from __future__ import annotations

import io
import json
import time
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.report.cohort_page import cohort_page
from scripts.spatial.fields import read_field
from scripts.spatial.geometry import apply_affine
from scripts.workflow.outputs import SaveRegistration
from tests.browser import in_browser, opened
from tests.workflow.registered import prepared

pytestmark = in_browser


@pytest.fixture(scope="module", params=[3, 2], ids=["3-D", "2-D"])
def case(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(f"viewer{request.param}")
    phantom = None if request.param == 3 else cardiac_pair(6, (90, 80), (2.0, 2.0))
    data = prepared(folder, phantom=phantom)
    sure = torch.ones(1, 1, *data["pair"].working.shape)
    sure[:, :, : sure.shape[2] // 2] = 0
    SaveRegistration(str(folder / "out"))({**data, "pred": replace(data["pred"], confidence=sure)})
    return folder / "out"


def written_moving(folder, point):
    """Where the written field, read through its header, takes a fixed point (RAS mm)."""
    u_lps, grid = read_field(folder / "ddf.nii.gz")
    u_lps = u_lps if grid.ndim == 3 else u_lps[:, :, None]
    at = apply_affine(np.linalg.inv(grid.affine), point)
    low = np.clip(np.floor(at).astype(int), 0, np.maximum(np.asarray(u_lps.shape[:3]) - 2, 0))
    part, u = at - low, 0
    for corner in np.ndindex(2, 2, 2):
        place = np.minimum(low + corner, np.asarray(u_lps.shape[:3]) - 1)
        u = u + np.prod(np.where(corner, part, 1 - part)) * u_lps[tuple(place)]
    return np.asarray(point) + u * [-1, -1, 1]


def colours(page, view):
    """What a canvas shows, (H, W, 3)."""
    page.wait_for_timeout(300)
    return np.asarray(Image.open(io.BytesIO(page.locator(f"#view-{view}").screenshot())).convert("RGB"), float)


def test_the_page_of_a_case(case, browser):
    began = time.perf_counter()
    page, errors = opened(browser, (case / "report.html").as_uri(), offline=True)
    page.wait_for_selector("body[data-viewer=ready]", state="attached", timeout=60_000)
    assert page.inner_text("#viewer-state") == ""
    seconds = time.perf_counter() - began
    for view in ("fixed", "moving", "moved"):
        drawn = colours(page, view).mean(axis=2)
        assert drawn.std() > 15 and (drawn > 40).mean() > 0.05, f"{view} is blank"

    # Three known points: the mapped place agrees with the written field, in the canvas and in the text.
    truth = nib.load(case.parent / "in" / "fixed_label.nii.gz")
    labels = np.asarray(truth.dataobj)
    flat = labels.ndim == 2 or labels.shape[2] == 1
    for value in (1, 2, 3):
        index = np.argwhere(labels == value)
        if not len(index):
            continue
        index = np.pad(index[len(index) // 3], (0, 3 - index.shape[1]))
        point = apply_affine(truth.affine, index).tolist()
        page.evaluate("p => { viewer.show('fixed', p); viewer.moved('fixed')(); }", point)
        at = {view: np.array(page.evaluate(f"viewer.where('{view}')")) for view in ("fixed", "moving", "moved")}
        plane = slice(0, 2) if flat else slice(0, 3)
        np.testing.assert_allclose(at["fixed"][plane], point[plane], atol=0.02)
        np.testing.assert_allclose(at["moved"][plane], point[plane], atol=0.02)
        assert np.linalg.norm((at["moving"] - written_moving(case, point))[plane]) < 0.5
        back = page.evaluate("m => viewer.toFixed(m)", at["moving"].tolist())
        assert np.linalg.norm((np.array(back) - point)[plane]) < 0.5

    # A real click in the fixed image moves the crosshair of the moving one.
    before = page.evaluate("viewer.where('moving')")
    page.select_option("#slices", "0") if not flat else None
    box = page.locator("#view-fixed").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.62, box["y"] + box["height"] * 0.45)
    page.wait_for_timeout(300)
    clicked = page.evaluate("viewer.where('moving')")
    assert np.linalg.norm(np.subtract(clicked, before)) > 1
    expected = written_moving(case, page.evaluate("viewer.where('fixed')"))
    assert np.linalg.norm(np.subtract(clicked, expected)[plane]) < 0.5

    # A row of the table jumps to its region in both images.
    for pair in json.loads((case / "correspondence.json").read_text(encoding="utf-8"))["pairs"]:
        page.click(f"tr[data-pair='{pair['number']}']")
        assert page.evaluate("viewer.chosen()") == pair["number"]
        assert page.get_attribute(f"tr[data-pair='{pair['number']}']", "class") == "chosen"
        place = np.array(page.evaluate("viewer.where('fixed')"))
        assert np.linalg.norm(place - pair["fixed"]["centroid_ras_mm"]) < 25
        page.wait_for_function("document.getElementById('viewer').getBoundingClientRect().top >= -1")
        assert page.inner_text("#pair") == f"pair {pair['number']}, score {pair['score']:.2f}"

    # Half of the confidence is 0 and red, the other half is 1 and blue.
    page.fill("#regions", "0")
    shares = {}
    for name in ("confidence", "jacobian", ""):
        page.select_option("#map", name)
        assert page.inner_text("#legend").lower().startswith(name)
        red, _, blue = np.moveaxis(colours(page, "moved"), -1, 0)
        shares[name] = (red - blue > 60).mean(), (blue - red > 40).mean()
    assert min(shares["confidence"]) > 0.1 and max(shares[""]) < 0.05, shares  # the crosshair is red
    assert shares["jacobian"][1] > shares[""][1] + 0.01, shares  # where volumes grow

    # Each control changes the picture.
    before = colours(page, "moved")
    for change in (
        lambda: page.check("#grid"),
        lambda: page.fill("#stage", "0.3"),
        lambda: page.fill("#opacity", "0.2"),
    ):
        change()
        assert np.abs(colours(page, "moved") - before).mean() > 0.5
        before = colours(page, "moved")
    assert errors == []
    assert (case / "report.html").stat().st_size < 15e6
    assert seconds < 20  # 3 s on an idle machine with a graphics card; here the CPU draws


def test_pictures_and_tables_need_no_javascript(case, browser):
    page, errors = opened(browser, (case / "report.html").as_uri(), offline=True, java_script_enabled=False)
    assert "needs JavaScript" in page.inner_text("#viewer-state")
    assert page.locator("img").count() == 6 and page.locator("tr[data-pair]").count() >= 2
    assert all(page.locator("img").nth(i).bounding_box()["height"] > 200 for i in range(6))
    assert errors == []


def test_the_cohort_table_sorts_and_filters(browser, tmp_path):
    rows = [{"name": f"pair {k}", "status": "registered", "seconds": float(s), "dice/mean/initial": 0.3,
             "dice/mean/final": d} for k, s, d in ((1, 9, 0.9), (2, 100, 0.4), (3, 20, 0.7))]  # fmt: skip
    rows.append({"name": "lost", "status": "failed", "error": "no file"})
    spread = {"mean": 0.5, "sd": 0.1, "n": 3}
    summary = {"registered": 3, "nothing_found": 0, "failed": 1, "doubted": 0, "seconds": 1.0, "pairs": rows,
               "metrics": {"dice/mean/initial": spread, "dice/mean/final": spread}}  # fmt: skip
    (tmp_path / "report.html").write_text(cohort_page(summary, {"pair 1"}), encoding="utf-8")
    page, errors = opened(browser, (tmp_path / "report.html").as_uri(), offline=True)

    def names():
        return [r.split("\t")[0] for r in page.inner_text("#cases tbody").splitlines() if r.strip()]

    assert names() == ["lost", "pair 2", "pair 3", "pair 1"]  # worst first
    page.click("#cases th:nth-child(4)")
    assert names() == ["pair 1", "pair 3", "pair 2", "lost"]  # by number, not by text; unknown at the end
    page.click("#cases th:nth-child(4)")
    assert names() == ["pair 2", "pair 3", "pair 1", "lost"]
    page.fill("#filter", "FAIL")
    assert names() == ["lost"] and page.inner_text("#count") == "1 of 4 pairs"
    assert errors == []
