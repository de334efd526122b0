"""The masks command: lists, resuming, failures, and its files."""

from __future__ import annotations

import json
import os
import sys

import nibabel as nib
import numpy as np
import pytest
import torch

from scripts import __main__ as cli
from scripts.common.weights import export_weights
from scripts.masks.net import build_net
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
    """What the command prints at its end."""
    lines = capsys.readouterr().out.splitlines()
    return [line.split(" - ", 3)[-1] for line in lines if f" - {report.__name__} - " in line]


def options(scans, out) -> list[str]:
    source = "files:{folder}/{stem}_seg.nii.gz"
    return ["--names", "LV,RV", "--source", source, "--values", VALUES, "--output_dir", str(out)]


def test_a_list_with_one_bad_image_and_a_second_run(scans, monkeypatch, capsys):
    (scans / "b.nii.gz").write_bytes(b"no image")
    (scans / "list.txt").write_text("a.nii.gz\nb.nii.gz\n\nc.nii.gz\n", encoding="utf-8")
    out = scans / "out"
    assert run(monkeypatch, str(scans / "list.txt"), *options(scans, out)) == 4
    lines = said(capsys)
    assert "  done  left ventricle cavity " in lines[0] and "failed: " in lines[1] and "  done  " in lines[2]
    assert lines[3] == "1 of 3 images failed; run the command again once they are fixed"
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
    # Other names count as another task.
    assert run(monkeypatch, str(scans / "a.nii.gz"), *options(scans, out)[:1], "RV", *options(scans, out)[2:]) == 0
    assert (out / "a_masks.nii.gz").stat().st_mtime_ns != before
    assert sorted(p.name for p in out.iterdir() if not p.name.startswith(".")) == sorted(
        f"{n}_masks.{e}" for n in "abc" for e in ("json", "nii.gz")
    )


def test_an_interrupted_run_leaves_nothing_half_written(scans, monkeypatch):
    out = scans / "out"

    def stop(path, labels, geometry):
        path.write_bytes(b"half a label map")
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "save_nifti", stop)
    assert run(monkeypatch, str(scans / "a.nii.gz"), *options(scans, out)) == 130
    assert not [p.name for p in out.iterdir() if p.name not in (".cache", ".lock", ".lock.holder")]


def masks_of(scans, monkeypatch, capsys, *more: str, image: str = "a.nii.gz") -> tuple[str, np.ndarray]:
    """What the command prints about one image, and the written labels."""
    assert run(monkeypatch, str(scans / image), *options(scans, scans / "out"), *more) == 0
    state = said(capsys)[0].split(" s  ")[1].split("  ")[0]
    return state, np.asarray(nib.load(scans / "out" / f"{image.split('.')[0]}_masks.nii.gz").dataobj)


def test_another_frame_is_segmented_again(scans, monkeypatch, capsys):
    """The label map is the same file for each frame; the image is not."""
    volume = volume_of((12, 10, 4), seed=1)
    frames = np.stack([volume.array[0], volume.array[0] + 9], axis=-1)
    nib.save(nib.Nifti1Image(frames, volume.geometry.affine), scans / "a.nii.gz")
    assert masks_of(scans, monkeypatch, capsys, "--frame", "0")[0] == "done"
    assert masks_of(scans, monkeypatch, capsys, "--frame", "0")[0] == "done before"
    assert masks_of(scans, monkeypatch, capsys, "--frame", "1")[0] == "done"


def test_a_changed_input_or_setting_segments_again(scans, monkeypatch, capsys):
    out = scans / "out"
    _, first = masks_of(scans, monkeypatch, capsys)
    assert masks_of(scans, monkeypatch, capsys)[0] == "done before"
    # A damaged result of 0 bytes.
    (out / "a_masks.nii.gz").write_bytes(b"")
    state, again = masks_of(scans, monkeypatch, capsys)
    assert state == "done" and np.array_equal(again, first)
    # Another image with an older modification time.
    volume = volume_of((12, 10, 4), seed=9)
    nib.save(nib.Nifti1Image(volume.array[0], volume.geometry.affine), scans / "a.nii.gz")
    os.utime(scans / "a.nii.gz", (1e9, 1e9))
    assert masks_of(scans, monkeypatch, capsys)[0] == "done"
    # Another label map under the same name, also older.
    labels = nib.load(scans / "a_seg.nii.gz")
    nib.save(nib.Nifti1Image(np.full(labels.shape, 3, np.uint8), labels.affine), scans / "a_seg.nii.gz")
    os.utime(scans / "a_seg.nii.gz", (1e9, 1e9))
    state, changed = masks_of(scans, monkeypatch, capsys)
    assert state == "done" and (changed == 1).all()


def test_other_weights_are_another_key(untrained, heart_files, tmp_path, monkeypatch, capsys):
    words = [heart_files["moving"], "--names", "LV", "--output_dir", str(tmp_path / "out"), "--checkpoint"]
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        export_weights(build_net("cardiac"), tmp_path / "w.pt")
        assert run(monkeypatch, *words, str(tmp_path / "w.pt")) == 0
        states.append(said(capsys)[0].split(" s  ")[1].split("  ")[0])
    assert states == ["done", "done before", "done"]


def test_no_file_of_the_user_is_replaced(scans, monkeypatch, capsys):
    out = scans / "out"
    out.mkdir()
    own = (scans / "b_seg.nii.gz").read_bytes()
    (out / "b_masks.nii.gz").write_bytes(own)
    assert run(monkeypatch, str(scans / "*c.nii.gz"), *options(scans, out)) == 0
    assert run(monkeypatch, str(scans / "?.nii.gz"), *options(scans, out)) == 1
    assert "b_masks.nii.gz exists and was not written by this command" in capsys.readouterr().err
    assert (out / "b_masks.nii.gz").read_bytes() == own and not (out / "a_masks.nii.gz").exists()
    # A label map that has since been edited by hand.
    (out / "c_masks.nii.gz").write_bytes(own)
    assert run(monkeypatch, str(scans / "c.nii.gz"), *options(scans, out)) == 1
    assert "c_masks.nii.gz was edited after this command wrote it" in capsys.readouterr().err
    assert (out / "c_masks.nii.gz").read_bytes() == own
    # An image of the list with the name of an output.
    (scans / "a_masks.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes())
    assert run(monkeypatch, str(scans / "a*.nii.gz"), *options(scans, scans)) == 1
    assert "would replace" in capsys.readouterr().err and not (scans / "a_masks.json").exists()


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
        (["gone.txt", "--names", "lv"], "error: gone.txt does not exist; give the path of a list of images."),
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
