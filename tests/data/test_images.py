"""Lists of images as users give them."""

from __future__ import annotations

import json

import pytest

from scripts.common.errors import InputError
from scripts.data.images import LoadVolume, image_items, stem_of


@pytest.fixture
def folder(tmp_path):
    for name in ("c.nii.gz", "a.nii.gz", "b.nii.gz", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "stem"),
    [("x/scan.nii.gz", "scan"), ("scan.v2.NRRD", "scan.v2"), ("series", "series"), ("a.PNG", "a"), ("b.img.gz", "b")],
)
def test_stems(path, stem):
    assert stem_of(path) == stem


def test_names_never_leave_the_output_folder():
    cases = [item["case"] for item in image_items(["/x.nii.gz", "/a/x.nii.gz", "/a/b/x.nii.gz"])]
    assert len(set(cases)) == 3
    assert not any("/" in case or "\\" in case for case in cases)


def test_patterns_files_and_lists(folder):
    assert [i["case"] for i in image_items(str(folder / "*.nii.gz"))] == ["a", "b", "c"]
    assert image_items("anything.nii.gz") == [{"path": "anything.nii.gz", "case": "anything"}]
    assert [i["case"] for i in image_items(["q/x.nii", "q/y.nii"])] == ["x", "y"]
    (folder / "list.txt").write_text("\ufeffb.nii.gz\n\n a.nii.gz \n", encoding="utf-8")
    items = image_items(str(folder / "list.txt"))
    assert [i["path"] for i in items] == [str(folder / "b.nii.gz"), str(folder / "a.nii.gz")]


def test_equal_names_are_distinguished_by_their_folders(folder):
    (folder / "l.json").write_text(json.dumps(["a.nii.gz", "x/a.nii.gz", "y/a.nii.gz", "x/b.nii.gz"]), encoding="utf-8")
    cases = [i["case"] for i in image_items(str(folder / "l.json"))]
    assert cases[1:] == ["x_a", "y_a", "b"] and len(set(cases)) == 4


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, "No image was found for None"),
        ("nothing/*.nii", r"No image was found for 'nothing/\*\.nii'; give an image, a pattern, or a list"),
        ("gone.json", "gone.json does not exist; give the path of a list of images"),
        (["d/a.nii", "d/a.nii"], "d/a.nii appears twice in the list"),
    ],
)
def test_lists_that_cannot_be_used(images, message):
    with pytest.raises(InputError, match=message):
        image_items(images)


def test_a_json_file_without_a_list(folder):
    (folder / "l.json").write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(InputError, match="is not a list of paths"):
        image_items(str(folder / "l.json"))


def test_unreadable_images_are_recorded(folder):
    item = LoadVolume()({"path": str(folder / "a.nii.gz"), "case": "a"})
    assert isinstance(item["error"], InputError) and "volume" not in item
    assert LoadVolume()({"path": "gone.nii", "case": "a", "done": {"x": 1}}) == {
        "path": "gone.nii", "case": "a", "done": {"x": 1},
    }  # fmt: skip
