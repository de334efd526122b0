"""The masks command: lists, resume, failures, and what it leaves behind."""

from __future__ import annotations

import json
import sys

import nibabel as nib
import numpy as np
import pytest

from scripts import __main__ as cli
from scripts.workflow import masks as report
from tests.masks.conftest import volume_of

VALUES = "{'lv': 3, 'rv': 7}"


def run(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["scripts", "masks", *words, "--progress", "False"])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def scans(tmp_path):
    """Three images beside their label maps."""
    labels = np.zeros((12, 10, 4), np.uint8)
    labels[2:6, 2:8] = 3
    labels[7:10, 2:8] = 7
    for name in ("a", "b", "c"):
        volume = volume_of(labels.shape, seed=ord(name))
        nib.save(nib.Nifti1Image(volume.array[0], volume.geometry.affine), tmp_path / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(labels, volume.geometry.affine), tmp_path / f"{name}_seg.nii.gz")
    return tmp_path


def said(capsys) -> list[str]:
    """What the command said at its end."""
    lines = capsys.readouterr().out.splitlines()
    return [line.split(" - ", 3)[-1] for line in lines if f" - {report.__name__} - " in line]


def options(scans, out) -> list[str]:
    source = "files:{folder}/{stem}_seg.nii.gz"
    return ["--names", "LV,RV", "--source", source, "--values", VALUES, "--output_dir", str(out)]


def test_a_list_with_one_bad_image_and_a_second_run(scans, monkeypatch, capsys):
    (scans / "b.nii.gz").write_bytes(b"no image")
    (scans / "list.txt").write_text("a.nii.gz\nb.nii.gz\n\nc.nii.gz\n", encoding="utf-8")
    out = scans / "out"
    assert run(monkeypatch, str(scans / "list.txt"), *options(scans, out)) == 1
    lines = said(capsys)
    assert "  done  left ventricle cavity " in lines[0] and "failed: " in lines[1] and "  done  " in lines[2]
    assert lines[3] == "1 of 3 images failed; run the command again when they are mended"
    record = json.loads((out / "a_masks.json").read_text(encoding="utf-8"))
    assert record["labels"] == {"left ventricle cavity": 1, "right ventricle cavity": 2}
    image, written = nib.load(scans / "a.nii.gz"), nib.load(out / "a_masks.nii.gz")
    np.testing.assert_allclose(written.affine, image.affine, atol=1e-5)
    truth = np.asarray(nib.load(scans / "a_seg.nii.gz").dataobj)
    assert np.array_equal(np.asarray(written.dataobj), np.select([truth == 3, truth == 7], [1, 2]))
    voxel = abs(np.linalg.det(image.affine[:3, :3])) / 1000
    assert record["ml"]["left ventricle cavity"] == pytest.approx((truth == 3).sum() * voxel, abs=1e-3)

    volume = volume_of((12, 10, 4), seed=5)
    nib.save(nib.Nifti1Image(volume.array[0], volume.geometry.affine), scans / "b.nii.gz")
    before = (out / "a_masks.nii.gz").stat().st_mtime_ns
    assert run(monkeypatch, str(scans / "list.txt"), *options(scans, out)) == 0
    states = [line.split(" s  ")[1] for line in said(capsys)]
    assert [s.startswith("done before") for s in states] == [True, False, True]
    assert (out / "a_masks.nii.gz").stat().st_mtime_ns == before
    # Other names are another task.
    assert run(monkeypatch, str(scans / "a.nii.gz"), *options(scans, out)[:1], "RV", *options(scans, out)[2:]) == 0
    assert (out / "a_masks.nii.gz").stat().st_mtime_ns != before
    assert sorted(p.name for p in out.iterdir() if p.name != ".cache") == sorted(
        f"{n}_masks.{e}" for n in "abc" for e in ("json", "nii.gz")
    )


def test_an_interrupted_run_leaves_nothing_half_written(scans, monkeypatch):
    out = scans / "out"

    def stop(path, labels, geometry):
        path.write_bytes(b"half a label map")
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "save_nifti", stop)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, str(scans / "a.nii.gz"), *options(scans, out))
    assert [p.name for p in out.iterdir()] == [".cache"]


def test_bundled_source_by_default(untrained, heart_files, tmp_path, monkeypatch):
    words = [heart_files["moving"], "--names", "myocardium", "--output_dir", str(tmp_path / "out")]
    assert run(monkeypatch, *words, "--checkpoint", untrained["cardiac"]) == 0
    record = json.loads((tmp_path / "out" / "moving_masks.json").read_text(encoding="utf-8"))
    assert record["source"] == "cardiac" and record["labels"] == {"myocardium": 1}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone.nii.gz", "--names", "lv"], "error: gone.nii.gz does not exist"),
        (["*.nothing", "--names", "lv"], "error: No image was found for '*.nothing'"),
        (["gone.txt", "--names", "lv"], "error: The list of images gone.txt cannot be read"),
        (["a.nii.gz", "--names", "lever"], "error: The source files has no structure 'lever'"),
        (["a.nii.gz", "--names", "lv", "--source", "sam"], "error: Unknown source of masks 'sam'; choose one of"),
        (["a.nii.gz", "--names", "lv", "--spedd", "1"], "has no option 'spedd'"),
    ],
)
def test_bad_input_in_one_sentence(scans, monkeypatch, capsys, words, message):
    monkeypatch.chdir(scans)
    extra = [] if "--source" in words else ["--source", "files:{folder}/{stem}_seg.nii.gz", "--values", VALUES]
    assert run(monkeypatch, *words, *extra, "--output_dir", "out") == 1
    assert message in capsys.readouterr().err
    assert not list((scans / "out").glob("*masks*"))
