"""The MONAI Label app on a running server: every REST example of docs/monai_label.md, parallel and bad requests.

The server needs MONAI Label, which has an environment of its own: set SAM_REGISTRATION_LABEL_PYTHON to its python.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest
import requests
import SimpleITK as sitk

from scripts.apps import release
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.data.reader import read_volume
from scripts.data.sample import write_phantom
from scripts.masks.build import build_source

pytestmark = pytest.mark.slow

PAGE = "monai_label.md"
START_SECONDS = 20


def dice(path: Path | str, truth: Path | str) -> list[float]:
    """Dice of each label of ``truth``; both files must have the same grid."""
    ours, theirs = nib.load(path), nib.load(truth)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-4)
    a, b = np.asarray(ours.dataobj), np.asarray(theirs.dataobj)
    values = [v for v in np.unique(b) if v]
    return [2 * float(((a == v) & (b == v)).sum()) / float((a == v).sum() + (b == v).sum()) for v in values]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> dict[str, str]:
    return write_phantom(tmp_path_factory.mktemp("phantom"), cardiac_pair(3, (64, 64, 6), (3.0, 3.0, 12.0)))


@contextmanager
def running(folder: Path, *words: str | Path) -> Iterator[tuple[str, float]]:
    """Address of a server started with these words, and the CPU seconds that it spent until it answered."""
    python = os.environ.get("SAM_REGISTRATION_LABEL_PYTHON")
    if not python:
        pytest.skip("SAM_REGISTRATION_LABEL_PYTHON does not name the python of an environment with MONAI Label")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["PATH"] = f"{Path(python).parent}{os.pathsep}{environment['PATH']}"
    environment["MONAI_LABEL_SESSION_PATH"] = str(folder / "sessions")
    command = [Path(python).with_name("monailabel"), "start_server", "--host", "127.0.0.1", "--port", str(port), *words]
    address = f"http://127.0.0.1:{port}"
    with (folder / "log").open("w") as log:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
        try:
            while not answers(address):
                text = (folder / "log").read_text()
                assert process.poll() is None and time.perf_counter() - began < 120, text[-2000:]
                time.sleep(0.2)
            spent = psutil.Process(process.pid).cpu_times()
            yield address, spent.user + spent.system
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def server(phantom, bundle, tmp_path_factory):
    """Address, studies folder and CPU seconds to start of a server with the app."""
    folder = tmp_path_factory.mktemp("server")
    studies = folder / "studies"
    studies.mkdir()
    shutil.copy(phantom["moving"], studies / "heart_ed.nii.gz")
    shutil.copy(phantom["fixed"], studies / "heart_es.nii.gz")
    flat = nib.Nifti1Image(np.random.default_rng(0).integers(0, 99, (64, 64, 1), np.int16), np.eye(4))
    nib.save(flat, studies / "picture.nii.gz")
    near = nib.load(phantom["moving"])
    affine = near.affine.copy()
    affine[0, 3] += 2000.0
    nib.save(nib.Nifti1Image(np.asarray(near.dataobj), affine), studies / "far.nii.gz")
    app = bundle / "scripts" / "apps" / "monai_label"
    with running(folder, "--app", app, "--studies", studies) as (address, seconds):
        yield address, studies, seconds


def answers(address: str) -> bool:
    try:
        return requests.get(f"{address}/info/", timeout=5).ok
    except requests.ConnectionError:
        return False


def infer(address: str, task: str, image: str, params: dict | None = None, output: str = "json", **files):
    return requests.post(
        f"{address}/infer/{task}",
        params={"image": image, "output": output},
        data={"params": json.dumps(params or {})},
        files=files or None,
        timeout=600,
    )


def test_it_starts_quickly_and_lists_the_four_tasks(server):
    address, _, seconds = server
    models = requests.get(f"{address}/info/", timeout=60).json()["models"]
    kinds = {name: model["type"] for name, model in models.items()}
    assert kinds == {
        "propagate": "segmentation",
        "correspond": "deepgrow",
        "register": "others",
        "masks": "segmentation",
    }
    options = models["propagate"]["config"]
    assert options["other_image"] == ["auto", "far", "heart_ed", "heart_es", "picture"]
    assert options["method"] == ["samreg", "network", "auto"] and options["epsilon"] == 0.8
    assert not {"output_dir", "checkpoint", "moving_label", "cache_dir"} & options.keys()
    assert seconds < START_SECONDS, "CPU seconds, because others may use the machine"


def test_the_examples_of_the_docs(server, phantom, bundle, tmp_path):
    address, studies, _ = server
    shutil.copy(phantom["moving_label"], tmp_path / "heart_ed_label.nii.gz")
    shutil.copy(phantom["moving"], tmp_path / "heart_ed.nii.gz")
    page = (bundle / "docs" / PAGE).read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 6
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for block in blocks:
        script = "set -euo pipefail\n" + block.replace("http://127.0.0.1:8000", address)
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8"
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    for name in ("propagated", "propagated_stored", "from_session"):
        assert min(dice(tmp_path / f"{name}.nii.gz", phantom["fixed_label"])) >= 0.8, name
    for name, role in (("region", "fixed"), ("partner", "moving")):
        found, image = nib.load(tmp_path / f"{name}.nii.gz"), nib.load(phantom[role])
        assert found.shape == image.shape and np.allclose(found.affine, image.affine, atol=1e-4)
    label = np.asarray(nib.load(phantom["fixed_label"]).dataobj)
    region = np.asarray(nib.load(tmp_path / "region.nii.gz").dataobj)
    assert region[22, 27, 3] == 1, "the region contains the click"
    assert label[22, 27, 3] == 1, "the click of the page lies in the right ventricle"
    field = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / "field.nii.gz"), sitk.sitkVectorFloat64))
    fixed, moving = (sitk.ReadImage(phantom[role], sitk.sitkFloat64) for role in ("fixed", "moving"))
    moved = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, field, sitk.sitkLinear, 0.0))
    ours = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "moved.nii.gz")))
    assert np.abs(moved - ours)[1:-1, 4:-4, 4:-4].max() < 1.0, "the field moves the image that is called moved"
    assert {"moved.nii.gz", "ddf.nii.gz", "report.html"} <= set(zipfile.ZipFile(tmp_path / "all.zip").namelist())
    masks = np.asarray(nib.load(tmp_path / "masks.nii.gz").dataobj)
    assert set(np.unique(masks)) <= {0, 1, 2} and (masks == 1).any()
    stored = {p.relative_to(studies).as_posix() for p in studies.rglob("*") if p.is_file()}
    images = {f"{n}.nii.gz" for n in ("heart_ed", "heart_es", "picture", "far")}
    labels = {"labels/final/heart_ed.nii.gz", "labels/partner/heart_ed.nii.gz"}
    assert stored <= {*images, *labels, "datastore_v2.json", ".lock"} and labels <= stored


def test_a_registration_is_computed_once(server, phantom):
    """After the examples of the docs: another task with the same options is answered from kept results."""
    address, _, _ = server
    request = {"other_image": "heart_ed", "method": "network", "result": "record"}
    assert infer(address, "register", "heart_es", request).ok
    began = time.perf_counter()
    with open(phantom["moving_label"], "rb") as label:
        given = {"other_image": "heart_ed", "method": "network"}
        answer = infer(address, "propagate", "heart_es", given, label=("label.nii.gz", label))
    assert answer.ok and answer.json()["other_image"] == "heart_ed"
    assert time.perf_counter() - began < 5


def test_roi_registration_carries_a_label(server, phantom, tmp_path):
    """Without training, and in both directions of the cardiac cycle."""
    address, _, _ = server
    for image, other, source, truth in (
        ("heart_es", "heart_ed", "moving_label", "fixed_label"),
        ("heart_ed", "heart_es", "fixed_label", "moving_label"),
    ):
        with open(phantom[source], "rb") as label:
            files = {"label": ("label.nii.gz", label)}
            answer = infer(address, "propagate", image, {"other_image": other, "method": "samreg"}, "image", **files)
        assert answer.status_code == 200, answer.text
        (tmp_path / "carried.nii.gz").write_bytes(answer.content)
        assert min(dice(tmp_path / "carried.nii.gz", phantom[truth])) >= 0.8


def test_twenty_requests_at_once(server):
    address, _, _ = server
    clicks = [{"other_image": "heart_ed", "foreground": [[22 + k % 2, 27 + k % 3, 3]]} for k in range(20)]
    with ThreadPoolExecutor(20) as pool:
        codes = list(pool.map(lambda click: infer(address, "correspond", "heart_es", click).status_code, clicks))
    assert codes == [200] * 20


BAD = {
    "unknown task": ("segment", "heart_es", {}, 404, "segment"),
    "unknown image": ("masks", "nobody", {}, 404, "nobody"),
    "a path of the server as the image": ("masks", "/etc/passwd", {}, 404, "/etc/passwd"),
    "unknown second image": ("register", "heart_es", {"other_image": "nobody"}, 404, "nobody"),
    "a path of the server as the second image": ("register", "heart_es", {"other_image": "/etc/passwd"}, 404, "passwd"),
    "unknown upload": ("register", "heart_es", {"other_session": "../../etc"}, 404, "upload"),
    "the image itself": ("register", "heart_es", {"other_image": "heart_es"}, 400, "itself"),
    "another dimension": ("register", "heart_es", {"other_image": "picture", "method": "network"}, 400, "2-D"),
    "no overlap": ("register", "heart_es", {"other_image": "far", "method": "network"}, 400, "overlap"),
    "no label": ("propagate", "heart_ed", {"other_image": "heart_es"}, 400, "label"),
    "a path of the server as the label": ("propagate", "heart_ed", {"label": "/etc/passwd"}, 400, "label"),
    "no click": ("correspond", "heart_es", {"other_image": "heart_ed"}, 400, "point"),
    "a click that is code": ("correspond", "heart_es", {"foreground": [["$exit()", 1, 1]]}, 400, "foreground"),
    "a click outside": ("correspond", "heart_es", {"foreground": [[900, 3, 3]]}, 400, "outside"),
    "an option that is a word": ("register", "heart_es", {"epsilon": "much"}, 400, "epsilon"),
    "an option that is code": ("register", "heart_es", {"fill_nan": "$__import__('os').getpid()"}, 400, "fill_nan"),
    "an option that is a path": ("register", "heart_es", {"init": "/etc/passwd"}, 400, "init"),
    "unknown structure": ("masks", "heart_es", {"names": "tail"}, 400, "tail"),
}


@pytest.mark.parametrize("case", BAD, ids=list(BAD))
def test_bad_requests_get_a_sentence(server, case):
    address, studies, _ = server
    before = sorted(p.as_posix() for p in studies.rglob("*"))
    task, image, params, status, word = BAD[case]
    answer = infer(address, task, image, params)
    assert answer.status_code == status and word in answer.json()["detail"], answer.text
    assert sorted(p.as_posix() for p in studies.rglob("*")) == before


@pytest.mark.parametrize(
    ("query", "params", "word"),
    [
        ("", "{}", "names no image"),
        ("?image=heart_es", "{oops", "not valid JSON"),
        ("?image=heart_es", "[1]", "JSON object"),
        ("?image=heart_es", "null", "JSON object"),
        ("?image=heart_es", '"ab"', "JSON object"),
        ("?image=heart_es&output=dicom_seg", "{}", "DICOMweb"),
    ],
)
def test_what_monai_label_itself_refuses_gets_a_sentence(server, query, params, word):
    answer = requests.post(f"{server[0]}/infer/masks{query}", data={"params": params}, timeout=60)
    assert answer.status_code == 400 and word in answer.json()["detail"], answer.text


def test_the_generic_app_of_monai_label(phantom, tmp_path):
    """The bundle under "monaibundle": the answer is the label of the second image, on the grid of the first."""
    python = os.environ.get("SAM_REGISTRATION_LABEL_PYTHON")
    apps = Path(python or "none").parent.parent / "monailabel" / "sample-apps" / "monaibundle"
    if not apps.is_dir():
        pytest.skip(f"there is no app monaibundle at {apps}")
    app = shutil.copytree(apps, tmp_path / "monaibundle")
    release.build(tmp_path / "bundle.zip", release.published_files())
    zipfile.ZipFile(tmp_path / "bundle.zip").extractall(app / "model")
    (tmp_path / "studies").mkdir()
    shutil.copy(phantom["fixed"], tmp_path / "studies" / "heart_es.nii.gz")
    conf = {"models": release.NAME, "zoo_source": "local", "sam2": "false", "skip_trainers": "true"}
    words = [word for key, value in conf.items() for word in ("--conf", key, value)]
    with running(tmp_path, "--app", app, "--studies", tmp_path / "studies", *words) as (address, _):
        # Without labels, the masks of the bundled network are carried; they must meet its masks of the other image.
        own = build_source("cardiac")(read_volume(phantom["fixed"]), "RV,myocardium,LV")
        nib.save(nib.Nifti1Image(own.labels, nib.load(phantom["fixed"]).affine), tmp_path / "own.nii.gz")
        truths = ({}, tmp_path / "own.nii.gz"), ({"moving_label": phantom["moving_label"]}, phantom["fixed_label"])
        for given, truth in truths:
            request = {"device": "cpu", "moving": phantom["moving"], **given}
            answer = infer(address, release.NAME, "heart_es", request, output="image")
            assert answer.status_code == 200, answer.text + (tmp_path / "log").read_text().rsplit("Traceback", 1)[-1]
            (tmp_path / "carried.nii.gz").write_bytes(answer.content)
            assert min(dice(tmp_path / "carried.nii.gz", truth)) >= (0.8 if given else 0.75)
