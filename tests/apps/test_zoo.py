"""The bundle as the model zoo verifies, publishes and downloads it, without a connection to the zoo.

The steps are those of ``ci/verify_bundle.py -b sam_registration -p models -m full`` of Project-MONAI/model-zoo.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import nibabel as nib
import pytest
from monai.bundle import download, get_bundle_info
from monai.bundle import scripts as monai_scripts

from scripts.apps import release
from scripts.common.errors import InputError
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.data.sample import write_phantom

SHAPE = [1, 4, 16, 16, 4]
TINY = ("--points_per_side", "4", "--overview", "False", "--progress", "False", "--device", "cpu")


def test_the_same_files_give_the_same_zip(tmp_path):
    names = [n for n in release.published_files() if n.startswith("configs/") or n == "LICENSE"]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        release.build(tmp_path / folder / "x.zip", names)
    assert (tmp_path / "a" / "x.zip").read_bytes() == (tmp_path / "b" / "x.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a" / "x.zip") as archive:
        archive.extractall(tmp_path)
    home = tmp_path / release.NAME
    for line in (home / release.MANIFEST).read_text(encoding="utf-8").splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((home / name).read_bytes()).hexdigest() == digest
    assert sorted(p.relative_to(home).as_posix() for p in home.rglob("*") if p.is_file()) == sorted(
        [*names, release.MANIFEST]
    )


def test_the_zip_is_small_and_complete():
    names = release.published_files()
    assert {"LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt", "docs/README.md"} <= {
        *names
    }
    assert not any(n.startswith(("tests/", ".")) or n.endswith(".pth") for n in names)
    assert "large_files.yml" not in names, "the zoo would put all that it lists into the zip"


def test_a_large_file_or_a_forgotten_changelog_stops_the_release(monkeypatch, tmp_path):
    monkeypatch.setattr(release, "MAX_MB", 0.001)
    with pytest.raises(InputError, match=r"the zoo takes"):
        release.published_files()
    monkeypatch.setattr(release, "BUNDLE", tmp_path)
    with pytest.raises(InputError, match="not a git checkout"):
        release.published_files()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text(json.dumps({"version": "9", "changelog": {}}), encoding="utf-8")
    with pytest.raises(InputError, match="Version 9 is not in the changelog"):
        release.version()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A small checkout of the zoo: models/sam_registration, downloaded from a local server in MONAI's way."""
    root, served = tmp_path_factory.mktemp("zoo"), tmp_path_factory.mktemp("served")
    name = f"{release.NAME}_v{release.version()}"
    release.build(served / f"{name}.zip", release.published_files())
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=served)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    listed = {name: {"checksum": "", "source": f"{address}/{name}.zip"}}
    (served / "model_info.json").write_text(json.dumps(listed), encoding="utf-8")
    (root / "eval").mkdir()
    try:
        download(name=release.NAME, url=f"{address}/{name}.zip", bundle_dir=root / "models", progress=False)
        yield root, address
    finally:
        server.shutdown()


def in_zoo(root: Path, code: str, cwd: str = ".") -> str:
    """Runs Python in the zoo, with the bundle on the path as verify_bundle.py puts it there."""
    environment = {**os.environ, "PYTHONPATH": str(root / "models" / release.NAME), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root / cwd,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=900,
    )
    assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


CONFIGS = f"models/{release.NAME}/configs"
FILES = f"meta_file='{CONFIGS}/metadata.json', config_file='{CONFIGS}/inference.json'"


@pytest.mark.slow
def test_necessary_files_and_version(zoo):
    home = zoo[0] / "models" / release.NAME
    assert all((home / f).is_file() for f in ("LICENSE", "configs/metadata.json", "models/model.pt"))
    metadata = json.loads((home / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["version"] in metadata["changelog"]
    assert all(p.stat().st_size <= 25e6 for p in home.rglob("*") if p.is_file())


@pytest.mark.slow
def test_metadata(zoo, bundle):
    shutil.copy(bundle / "tests" / "metadata_schema.json", zoo[0] / "eval" / "schema.json")
    meta = f"meta_file='models/{release.NAME}/configs/metadata.json'"
    in_zoo(zoo[0], f"from monai.bundle import verify_metadata; verify_metadata({meta}, filepath='eval/schema.json')")


@pytest.mark.slow
def test_network_input_and_output(zoo):
    in_zoo(zoo[0], f"from monai.bundle import verify_net_in_out; verify_net_in_out(net_id='network_def', {FILES})")


@pytest.mark.slow
def test_torchscript(zoo):
    in_zoo(
        zoo[0],
        f"""
import torch
from monai.bundle import ckpt_export, ConfigParser
root = 'models/{release.NAME}'
ckpt_export(net_id='network_def', filepath='eval/model.ts', ckpt_file=root + '/models/model.pt', {FILES})
parser = ConfigParser()
parser.read_config(root + '/configs/inference.json')
parser['bundle_root'] = root
network = parser.get_parsed_content('network').eval()
torch.manual_seed(0)
image = torch.rand({SHAPE})
image[:, 2:] = (image[:, 2:] * 4).floor()
with torch.no_grad():
    torch.testing.assert_close(torch.jit.load('eval/model.ts')(image), network(image), atol=1e-6, rtol=0)
""",
    )


@pytest.mark.slow
def test_onnx(zoo):
    pytest.importorskip("onnxscript", reason="onnx, onnxscript and onnxruntime are not installed")
    export = f"ckpt_file='models/{release.NAME}/models/model.pt', input_shape={SHAPE}, {FILES}"
    in_zoo(zoo[0], f"from monai.bundle import onnx_export; onnx_export('network_def', 'eval/model.onnx', {export})")
    assert (zoo[0] / "eval" / "model.onnx").stat().st_size > 10_000


@pytest.mark.slow
def test_unit_tests_of_the_zoo(zoo, bundle):
    (zoo[0] / "ci" / "unit_tests").mkdir(parents=True, exist_ok=True)
    test = shutil.copy(bundle / "tests" / "apps" / f"test_{release.NAME}.py", zoo[0] / "ci" / "unit_tests")
    done = subprocess.run([sys.executable, test, "-v"], cwd=zoo[0], capture_output=True, encoding="utf-8", timeout=900)
    assert done.returncode == 0 and "OK" in done.stderr and "skipped" not in done.stderr, done.stderr[-4000:]


@pytest.mark.slow
def test_the_listing_and_load(zoo, monkeypatch):
    root, address = zoo
    get = monai_scripts.requests.get
    monkeypatch.setattr(monai_scripts.requests, "get", lambda url, **options: get(f"{address}/model_info.json"))
    info = get_bundle_info(release.NAME)
    assert info["name"] == f"{release.NAME}_v{release.version()}"
    assert info["browser_download_url"].endswith(".zip")
    print_type = "print(type(load('{0}', bundle_dir='models', workflow_type='inference', source='github')).__name__)"
    out = in_zoo(root, "from monai.bundle import load; " + print_type.format(release.NAME))
    assert "CrossFusionNet" in out


@pytest.mark.slow
def test_the_downloaded_bundle_registers(zoo, tmp_path):
    """The main job in a folder that contains nothing but the zip's files."""
    home = zoo[0] / "models" / release.NAME
    paths = write_phantom(tmp_path / "pair", cardiac_pair(3, (48, 48, 4), (4.0, 4.0, 16.0)))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-m", "scripts", "register", paths["moving"], paths["fixed"]]
    command += ["--output_dir", str(tmp_path / "out"), *TINY]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, encoding="utf-8", timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    assert nib.load(tmp_path / "out" / "ddf.nii.gz").shape == (48, 48, 4, 1, 3)
