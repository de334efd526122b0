"""Lists of pairs: reading them, and refusing bad ones in one sentence."""

from __future__ import annotations

import json
import random
import time

import pytest

from scripts.common.errors import InputError
from scripts.workflow.cohort.pairs import Entry, is_pair_name, read_entries

COLUMNS = ("moving", "fixed", "moving_label", "fixed_label", "moving_frame", "fixed_frame")


def test_csv_and_json_give_the_same_pairs(tmp_path):
    (tmp_path / "a.csv").write_text(
        '\ufeffname,moving,fixed,moving_label,fixed_frame\n'
        'Größe 1,"a, b.nii.gz",/data/b.nii,,3\n'
        ",sub/c.nii.gz,d.mha,l.nii.gz,\n"
        ",sub/c.nii.gz,d.mha,,\n",
        encoding="utf-8",
    )  # fmt: skip
    rows = [
        {"name": "Größe 1", "moving": "a, b.nii.gz", "fixed": "/data/b.nii", "fixed_frame": 3},
        {"moving": "sub/c.nii.gz", "fixed": "d.mha", "moving_label": "l.nii.gz"},
        {"moving": "sub/c.nii.gz", "fixed": "d.mha", "moving_label": None},
    ]
    (tmp_path / "a.json").write_text(json.dumps({"pairs": rows}), encoding="utf-8")
    base = str(tmp_path)
    expected = [
        Entry("Größe 1", {"moving": f"{base}/a, b.nii.gz", "fixed": "/data/b.nii", "fixed_frame": 3}),
        Entry("c_to_d", {"moving": f"{base}/sub/c.nii.gz", "fixed": f"{base}/d.mha",
                         "moving_label": f"{base}/l.nii.gz"}),
        Entry("c_to_d_2", {"moving": f"{base}/sub/c.nii.gz", "fixed": f"{base}/d.mha"}),
    ]  # fmt: skip
    assert read_entries(tmp_path / "a.csv", COLUMNS) == expected
    assert read_entries(tmp_path / "a.json", COLUMNS) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "is empty; give the path of a list of pairs"),
        ("a.csv", "moving,fixed\n", "has no pairs"),
        ("a.csv", "moving,fixd\na,b\n", "unknown column 'fixd'; did you mean fixed"),
        ("a.csv", "moving,colour\na,b\n", "unknown column 'colour'; known are name, moving, fixed"),
        ("a.csv", "moving,fixed\na\n", "Pair 1 .* have different numbers of fields"),
        ("a.csv", "moving,fixed\na,b,c\n", "Pair 1 .* have different numbers of fields"),
        ("a.csv", 'moving,fixed\n"a,b\n', "not valid CSV"),
        ("a.csv", "moving,fixed\na,b\nc,\n", "Pair 2 .* has no fixed image"),
        ("a.csv", "moving,fixed,moving_frame\na,b,-1\n", "'-1' as moving_frame; give the number of a frame"),
        ("a.csv", "name,moving,fixed\n../x,a,b\n", "called '../x', which cannot be the name of a folder"),
        ("a.csv", "name,moving,fixed\nx,a,b\nX,a,b\n", "The name 'X' is used twice"),
        ("a.csv", "name,moving,fixed\ns1/a,a,b\ns1,a,b\n", "'s1/a' of .* would lie in the folder of the pair 's1'"),
        ("a.json", '[{"moving": "a\\u0000", "fixed": "b"}]', r"has 'a\\x00' as moving; give text"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", "[" * 100_000, "not valid JSON"),
        ("a.json", "[1]", "must contain a list of objects"),
        ("a.json", '{"a": 1}', "must contain a list of objects"),
        ("a.json", '[{"moving": ["a"], "fixed": "b"}]', r"has \['a'\] as moving; give text"),
    ],
)
def test_bad_lists_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_entries(tmp_path / name, COLUMNS)


def test_unreadable_lists(tmp_path):
    (tmp_path / "bytes.csv").write_bytes(b"moving,fixed\n\xff\xfe,b\n")
    for path in (tmp_path / "gone.csv", tmp_path / "bytes.csv", tmp_path, "nul\0.csv"):
        with pytest.raises(InputError, match=r"list of pairs in CSV or JSON"):
            read_entries(path, COLUMNS)
    with pytest.raises(InputError, match="No list of pairs was given"):
        read_entries(None, COLUMNS)


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_damaged_lists_are_read_or_refused(tmp_path, ending):
    """200 seeded mutations: either pairs whose folders lie in the output folder, or one sentence."""
    rows = [{"name": "ä b", "moving": "a.nii.gz", "fixed": "b.nii.gz", "moving_frame": "1"}] * 2
    rows[1] = {**rows[1], "name": "c"}
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    good = (json.dumps(rows) if ending == "json" else "\n".join(lines)).encode()
    chance = random.Random(5)
    path = tmp_path / f"list.{ending}"
    outcomes = []
    for _ in range(200):
        data = bytearray(good)
        for _ in range(chance.randint(1, 2)):
            place = chance.randrange(len(data) + 1)
            junk = chance.choice(
                [
                    b'"',
                    b"\x00",
                    b"\xff",
                    b"\n",
                    b",",
                    b"../",
                    b"{",
                    b"]",
                    b"null",
                    b"\r",
                    b"1e999",
                    b"",
                    b"x",
                    "ü".encode(),
                ]
            )
            data[place : place + chance.choice([0, 1, 1, 8, 200])] = junk
        path.write_bytes(bytes(data))
        try:
            entries = read_entries(path, COLUMNS)
        except InputError as error:
            outcomes.append("refused")
            assert "\n" not in str(error)[:60]
            continue
        outcomes.append("read")
        for entry in entries:
            assert (tmp_path / entry.name).resolve().parent == tmp_path.resolve()
    assert min(outcomes.count(o) for o in ("read", "refused")) > 10


def test_bids_names_in_a_tsv(tmp_path):
    (tmp_path / "pairs.tsv").write_text(
        "name\tmoving\tfixed\tmoving_label\nsub-01/ses-1\ta b.nii.gz\tc,d.nii.gz\tn/a\n", encoding="utf-8"
    )
    item = {"moving": str(tmp_path / "a b.nii.gz"), "fixed": str(tmp_path / "c,d.nii.gz")}
    assert read_entries(tmp_path / "pairs.tsv", COLUMNS) == [Entry("sub-01/ses-1", item)]


def test_a_hundred_thousand_unnamed_pairs_are_read_quickly(tmp_path):
    """All have one name: the time to number them must not grow with the square of their number."""
    path = tmp_path / "long.csv"
    path.write_text(
        "moving,fixed\n" + "".join(f"{k}/t1.nii,{k // 10}/t2.nii\n" for k in range(100_000)), encoding="utf-8"
    )
    began = time.process_time()
    entries = read_entries(path, COLUMNS)
    assert time.process_time() - began < 15
    assert (entries[0].name, entries[-1].name) == ("t1_to_t2", "t1_to_t2_100000")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/",
        "/a",
        "a//b",
        "a/../b",
        "summary.csv/x",
        "a\\b",
        ".cache",
        "a\nb",
        "a:b",
        "x" * 201,
        "end.",
        'q"',
    ],
)
def test_names_that_leave_the_folder_are_refused(name):
    assert not is_pair_name(name)


@pytest.mark.parametrize("name", ["a", "patient 1", "P-01_ES", "患者", "it's", "a..b", "q.old", "sub-01/ses-1"])
def test_ordinary_names_are_taken(name, tmp_path):
    assert is_pair_name(name)
    (tmp_path / name).mkdir(parents=True)
    assert (tmp_path / name).relative_to(tmp_path).as_posix() == name
