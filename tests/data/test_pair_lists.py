"""Lists of pairs: a user's files, splits, phantoms, and what is refused."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from scripts.common.errors import InputError
from scripts.data import pair_lists
from scripts.data.pair_lists import abdomen_pairs, acdc_pairs, disjoint, phantom_pairs, read_pairs


def test_csv_and_json_lists_give_the_same(tmp_path, heart_files):
    for role in ("moving", "fixed"):
        (tmp_path / f"{role}.nii.gz").write_bytes(b"x")
    (tmp_path / "a.csv").write_text(
        "name,moving,fixed,moving_mask\nheart,moving.nii.gz,fixed.nii.gz,\n", encoding="utf-8"
    )
    rows = [{"name": "heart", "moving": "moving.nii.gz", "fixed": "fixed.nii.gz", "moving_mask": None}]
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    expected = [{"name": "heart", **{r: str(tmp_path / f"{r}.nii.gz") for r in ("moving", "fixed")}}]
    assert read_pairs(tmp_path / "a.csv") == read_pairs(tmp_path / "a.json") == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "moving,target\na,b\n", "Pair 1 of .* has no fixed image; the columns moving and fixed"),
        ("a.csv", "moving,fixed\n", "has no pairs"),
        ("a.json", "{", "is not valid JSON"),
        ("a.json", '{"moving": "a"}', "must contain a list of objects"),
        ("a.csv", "moving,fixed\nhere,gone\n", "Pair 1 of .*names .*gone, which does not exist"),
        ("a.csv", "moving,fixed,fixed_mask\nhere,here,gone\n", "gone, which does not exist"),
    ],
)
def test_bad_lists(tmp_path, name, text, message):
    (tmp_path / "here").write_text("", encoding="utf-8")
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_pairs(tmp_path / name)


def test_words_stay_words_and_files_start_at_the_list(tmp_path):
    (tmp_path / "here").write_text("", encoding="utf-8")
    rows = [{"moving": "here", "fixed": "here", "init": init, "moving_subject": 7} for init in ("affine", "m.txt")]
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    found = read_pairs(tmp_path / "a.json")
    assert [pair["init"] for pair in found] == ["affine", str(tmp_path / "m.txt")]
    assert found[0]["moving_subject"] == "7"


def test_missing_list(tmp_path):
    with pytest.raises(InputError, match="does not exist; give the path of a list of pairs"):
        read_pairs(tmp_path / "gone.csv")


def test_a_subject_in_both_splits_is_refused(tmp_path):
    a = [{"moving": "1.nii", "fixed": "2.nii"}]
    assert disjoint(a, [{"moving": "3.nii", "fixed": "4.nii"}]) is a
    with pytest.raises(InputError, match="1 subjects are in both"):
        disjoint(a, [{"moving": "3.nii", "fixed": "2.nii"}])
    named = [{"moving": "1.nii", "fixed": "2.nii", "moving_subject": "p1", "fixed_subject": "p1"}]
    with pytest.raises(InputError, match=r"e\.g\. p1"):
        disjoint(named, [{"moving": "3.nii", "fixed": "4.nii", "moving_subject": "p1", "fixed_subject": "p2"}])


def make_acdc(root):
    folder = root / "acdc" / "patient001"
    folder.mkdir(parents=True)
    (folder / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: NOR\n", encoding="utf-8")
    image = np.arange(20 * 16 * 3, dtype=np.int16).reshape(20, 16, 3)
    for frame in ("01", "12"):
        for ending in ("", "_gt"):
            nib.save(nib.Nifti1Image(image, np.diag([2, 2, 8, 1])), folder / f"patient001_frame{frame}{ending}.nii.gz")
    (root / "splits").mkdir()
    (root / "splits" / "acdc.json").write_text('{"training": ["patient001"]}', encoding="utf-8")
    return image


def test_acdc_pairs_are_cropped_in_place(tmp_path):
    image = make_acdc(tmp_path)
    (pair,) = acdc_pairs(str(tmp_path), "training", str(tmp_path / "cache"), crop=8)
    moving = nib.load(pair["moving"])
    np.testing.assert_array_equal(moving.get_fdata(), image[6:14, 4:12])
    np.testing.assert_allclose(moving.affine[:3, 3], [12, 8, 0])
    assert pair["name"] == pair["moving_subject"] == "patient001"
    assert "frame12_gt" in pair["fixed_label"]
    assert acdc_pairs(str(tmp_path), "training", str(tmp_path / "cache"), crop=8) == [pair]
    with pytest.raises(InputError, match="no list of validation subjects"):
        acdc_pairs(str(tmp_path), "validation", str(tmp_path / "cache"))


def test_masks_of_acdc_pairs(tmp_path):
    image = make_acdc(tmp_path)
    masks = tmp_path / "masks"
    masks.mkdir()
    arguments = (str(tmp_path), "training", str(tmp_path / "cache"), 8, str(masks))
    with pytest.raises(
        InputError, match=r"masks has no masks of patient001_frame01; .* or patient001_frame01_masks\.nii"
    ):
        acdc_pairs(*arguments)
    for name in ("patient001_frame01", "patient001_frame12_masks"):  # by hand, and by the masks command
        nib.save(nib.Nifti1Image(image + 1, np.diag([2, 2, 8, 1])), masks / f"{name}.nii.gz")
    (pair,) = acdc_pairs(*arguments)
    for role in ("moving", "fixed"):
        np.testing.assert_array_equal(nib.load(pair[f"{role}_mask"]).get_fdata(), image[6:14, 4:12] + 1)


def test_abdomen_pairs_keep_their_affine(tmp_path, monkeypatch):
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "abdomen_ct.json").write_text('{"training": ["1", "2", "3"]}', encoding="utf-8")
    calls = []

    class FakeLoad:
        def __init__(self, window, init, affine_size):
            assert (window, init, affine_size) == ("ct", "affine", 64)

        def __call__(self, paths):
            calls.append(paths)
            return {"pair": type("P", (), {"transform": np.diag([2.0, 1, 1, 1])})}

    monkeypatch.setattr(pair_lists, "LoadPair", FakeLoad)
    for _ in range(2):
        pairs = abdomen_pairs(str(tmp_path), "training", str(tmp_path / "cache"))
        assert len(pairs) == 6 and len(calls) == 6
    np.testing.assert_array_equal(np.loadtxt(pairs[0]["init"]), np.diag([2.0, 1, 1, 1]))
    assert {(p["moving_subject"], p["fixed_subject"]) for p in pairs} == {
        (a, b) for a in "123" for b in "123" if a != b
    }
    assert abdomen_pairs(str(tmp_path), "training", str(tmp_path / "cache"), every=4) == [pairs[0], pairs[4]]


def test_phantoms_for_training(tmp_path, monkeypatch):
    monkeypatch.setattr(pair_lists, "pair_list", lambda folder, sample, seed: [{"moving": f"{sample}{seed}"}])
    assert phantom_pairs(str(tmp_path), 2, 5) == [{"moving": "cardiac5"}, {"moving": "cardiac6"}]
