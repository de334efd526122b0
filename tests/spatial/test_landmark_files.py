"""Landmark files of Slicer, ANTs and spreadsheets: frames, labels, round trips, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scripts.common.errors import InputError
from scripts.spatial.geometry import apply_affine
from scripts.spatial.landmark_files import Landmarks, read_landmark_file, read_landmarks, write_landmark_file
from tests.conftest import oblique

GRID = oblique((30, 26, 16), (1.5, 1.2, 3.0))
RAS = np.array([[1.0, 2.0, 3.0], [-4.0, 5.5, 6.0]])
FCSV = """# Markups fiducial file version = 4.11
# CoordinateSystem = {frame}
# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID
1,{a},0,0,0,1,1,1,0,apex,,
2,{b},0,0,0,1,1,1,0,base,,
"""


def text(rows) -> list[str]:
    return [",".join(f"{v:g}" for v in row) for row in rows]


def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path):
    for content in ("x,y,z\n1,2,3\n", "1 2 3\n"):
        (tmp_path / "p.csv").write_text(content, encoding="utf-8-sig")
        np.testing.assert_allclose(read_landmark_file(tmp_path / "p.csv").points_ras, [[1, 2, 3]])


@pytest.mark.parametrize(("frame", "points"), [("LPS", RAS * [-1, -1, 1]), ("0", RAS), ("1", RAS * [-1, -1, 1])])
def test_fcsv_names_its_frame(tmp_path, frame, points):
    a, b = text(points)
    (tmp_path / "p.fcsv").write_text(FCSV.format(frame=frame, a=a, b=b), encoding="utf-8")
    marks = read_landmark_file(tmp_path / "p.fcsv")
    np.testing.assert_allclose(marks.points_ras, RAS)
    assert marks.labels == ["apex", "base"]
    np.testing.assert_allclose(read_landmarks(tmp_path / "p.fcsv", GRID, "voxel"), RAS)  # the file is right


@pytest.mark.parametrize("frame", ["RAS", "LPS"])
def test_markups_name_their_frame(tmp_path, frame):
    points = RAS if frame == "RAS" else RAS * [-1, -1, 1]
    control = [{"label": f"F-{k}", "position": p.tolist(), "positionStatus": "defined"} for k, p in enumerate(points)]
    control.append({"label": "F-9", "position": [0, 0, 0], "positionStatus": "undefined"})
    content = {"markups": [{"type": "Fiducial", "coordinateSystem": frame, "controlPoints": control}]}
    (tmp_path / "p.mrk.json").write_text(json.dumps(content), encoding="utf-8")
    marks = read_landmark_file(tmp_path / "p.mrk.json")
    np.testing.assert_allclose(marks.points_ras, RAS)
    assert marks.labels == ["F-0", "F-1"]


def test_markups_in_other_units_become_millimetres(tmp_path):
    """Slicer writes coordinateUnits; a file in centimetres was once read ten times too small."""
    for unit, scale in (("cm", 10), ("m", 1000), ("mm", 1)):
        points = [{"position": (p / scale).tolist()} for p in RAS]
        markups = {"coordinateSystem": "RAS", "coordinateUnits": unit, "controlPoints": points}
        (tmp_path / "p.mrk.json").write_text(json.dumps({"markups": [markups]}), encoding="utf-8")
        np.testing.assert_allclose(read_landmark_file(tmp_path / "p.mrk.json").points_ras, RAS)


@pytest.mark.parametrize("name", ["p.csv", "p.fcsv", "p.mrk.json"])
@pytest.mark.parametrize("frame", ["ras", "lps", "voxel"])
def test_round_trips(tmp_path, name, frame):
    write_landmark_file(tmp_path / name, Landmarks(RAS, ["apex", "base, left"], frame), GRID)
    marks = read_landmark_file(tmp_path / name, GRID, frame if name == "p.csv" else None)
    np.testing.assert_allclose(marks.points_ras, RAS, atol=1e-4)
    assert marks.labels == ["apex", "base, left"]


def test_labels_are_no_formulas_and_end_no_row(tmp_path):
    """A spreadsheet runs a cell that begins with =; Slicer shows an .fcsv as it is."""
    marks = Landmarks(RAS, ["=cmd|' /C calc'!A0", "left\nventricle"])
    write_landmark_file(tmp_path / "p.csv", marks)
    lines = (tmp_path / "p.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[-1] for line in lines] == ["label", "'=cmd|' /C calc'!A0", "left ventricle"]
    write_landmark_file(tmp_path / "p.fcsv", marks)
    assert read_landmark_file(tmp_path / "p.fcsv").labels == ["=cmd|' /C calc'!A0", "left ventricle"]


def test_columns_by_name(tmp_path):
    file = tmp_path / "p.csv"
    file.write_text("x,y,z,t,label\n-1,-2,3,0,apex\n4,-5.5,6,0,base\n", encoding="utf-8")  # as ANTs writes, LPS
    np.testing.assert_allclose(read_landmark_file(file, frame="lps").points_ras, RAS)
    file.write_text("name;R;A;S\napex;1;2;3\nbase;-4;5.5;6\n", encoding="utf-8")
    marks = read_landmark_file(file)
    np.testing.assert_allclose(marks.points_ras, RAS)
    assert marks.labels == ["apex", "base"]
    index = apply_affine(np.linalg.inv(GRID.affine), RAS)
    rows = [",".join(f"{v:.6f}" for v in p) for p in index]
    file.write_text("i,j,k\n" + "\n".join(rows), encoding="utf-8")
    np.testing.assert_allclose(read_landmark_file(file, GRID).points_ras, RAS, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "content", "frame", "message"),
    [
        ("p.csv", "row,column\n1,2\n", None, "has the columns row, column; x, y, z"),
        ("p.csv", "r,a,s\n1,2,3\n", "lps", "says that its landmarks are in RAS, not LPS"),
        ("p.csv", "x,y,z\n1,2,3\n", "mni", "'mni'"),
        ("p.csv", "x,y,z\n1,2\n", None, "line 2: '1,2' has no numbers for x, y, z"),
        ("p.csv", "1 2 3 4\n", None, "line 1"),
        ("p.csv", "x,y,z\n1,2,nan\n", None, "NaN"),
        ("p.csv", "i,j,k\n1,2,3\n", None, "holds voxel indices; give the image"),
        ("p.fcsv", FCSV.format(frame="MNI", a="1,2,3", b="1,2,3"), None, "coordinate system 'MNI'"),
        ("p.fcsv", "# columns = id,label\n1,a\n", None, "x, y and z are needed"),
        ("p.mrk.json", "{}", None, "not a markups file"),
        ("p.mrk.json", "no json", None, "not a markups file"),
        ("p.mrk.json", '{"markups": [{"coordinateSystem": "XYZ", "controlPoints": []}]}', None, "'XYZ'"),
        ("p.csv", None, None, "does not exist"),
        ("p.csv", "1,5;2,5;3,5\n", None, "line 1: '1,5;2,5;3,5' has decimal commas; write decimal points"),
        ("p.csv", "x;y;z\n1,5;2;3\n", None, "line 2: '1,5;2;3' has decimal commas"),
        ("p.csv", "x,y,z\n1,5,2,5,3,5\n", None, "line 2: .* has 6 cells for 3 columns; quote text with commas"),
        ("p.fcsv", FCSV.format(frame="LPS", a="1,5,2,5,3,5", b="1,2,3"), None, "line 4: .* cells for 14 columns"),
        ("p.mrk.json", '{"markups": [{"coordinateUnits": "inch", "controlPoints": []}]}', None, "unit 'inch'; mm"),
        ("p.csv", f"x,y,z\n1,2,{'3' * 200_000}\n", None, "is not a row of a table"),
    ],
)
def test_what_is_refused(tmp_path, name, content, frame, message):
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_landmark_file(tmp_path / name, None, frame)
