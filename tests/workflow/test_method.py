"""``--method auto``: the order of its decisions, and their reasons in plan and results."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from scripts import register
from scripts.common.errors import InputError
from scripts.data.phantoms.abdomen import abdomen_pair
from scripts.data.phantoms.cardiac import cardiac_pair
from scripts.data.reader import read_volume
from scripts.data.sample import write_phantom
from scripts.verbs import register as verb
from scripts.verbs.register import resolve
from scripts.workflow import method as module
from scripts.workflow.method import HEART, Choice, is_heart
from tests.workflow.cohort.conftest import QUICK, write_list
from tests.workflow.cohort.test_cohort import run_main


class Source:
    """Stands in for the cardiac network: returns the label map beside an image, or nothing."""

    def __init__(self, finds: bool) -> None:
        self.finds, self.asked = finds, []

    def to(self, device):
        return self

    def __call__(self, volume, names, modality):
        assert names == HEART and modality == "mr"
        self.asked.append(volume.path)
        labels = read_volume(volume.path.replace(".nii.gz", "_label.nii.gz")).array[0]
        return SimpleNamespace(labels=labels * self.finds)


@pytest.fixture
def source(monkeypatch):
    made = Source(True)
    monkeypatch.setattr(module, "build_source", lambda name: made)
    return made


def changed(path: str, target, array=None, zooms=None) -> str:
    """A copy of an image with other intensities or another voxel size."""
    image = nib.load(path)
    array = np.asarray(image.dataobj) if array is None else array(np.asarray(image.dataobj))
    affine = image.affine if zooms is None else np.diag([*zooms, 1.0])
    nib.save(nib.Nifti1Image(array, affine), target)
    return str(target)


def chosen(files, out, **options) -> tuple[list[str], str]:
    configs, values = resolve(files["moving"], files["fixed"], str(out), method="auto", **options)
    return configs, values["method#reason"]


def test_hearts_go_to_the_network(heart_files, tmp_path, source):
    configs, reason = chosen(heart_files, tmp_path)
    assert configs == ["inference.json"]
    assert reason == f"the cardiac network finds the heart in {heart_files['moving']} and {heart_files['fixed']}"


def test_stacks_without_a_heart_do_not(heart_files, tmp_path, source):
    source.finds = False
    configs, reason = chosen(heart_files, tmp_path)
    assert configs == ["samreg.json"]
    assert reason == f"the cardiac network finds no heart in {heart_files['moving']}"


@pytest.mark.parametrize(
    ("array", "zooms", "reason"),
    [
        (lambda a: a[:, :, 2:3], None, "it is 2-D"),
        (None, (3.0, 3.0, 3.5), r"it is not a stack of thick slices \(voxels of 3 to 3.5 mm\)"),
        (lambda a: a - 1000, None, "its intensities are those of CT"),
        (lambda a: a.max() - a, None, "25% of its intensities, scaled"),
    ],
)
def test_other_images_do_not_and_no_network_runs(heart_files, tmp_path, source, array, zooms, reason):
    odd = changed(heart_files["fixed"], tmp_path / "odd.nii.gz", array, zooms)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(heart_files, "fixed", odd)
        configs, said = chosen(heart_files, tmp_path)
    assert configs == ["samreg.json"] and said.startswith(f"{odd} is unlike short-axis cardiac MR: ")
    assert re.search(reason, said)
    assert source.asked == []


@pytest.mark.parametrize(
    ("options", "configs", "reason"),
    [
        ({"instance_steps": 5}, ["inference.json"], "--instance_steps belongs to it"),
        ({"sam": "vit_b"}, ["samreg.json"], "--sam belongs to it"),
        ({"dense_settings#steps": 4}, ["samreg.json"], "--dense_settings belongs to it"),
        ({"preset": "retina"}, ["samreg.json", "presets/retina.json"], "the preset retina belongs to it"),
        ({"preset": "abdomen_ct"}, ["inference.json", "presets/network/abdomen_ct.json"], "has its own weights for it"),
        (
            {"preset": "cardiac_mr"},
            ["inference.json", "presets/network/cardiac_mr.json"],
            "the preset cardiac_mr says so",
        ),
        ({"window": "ct"}, ["samreg.json"], "its intensities are those of CT"),
    ],
)
def test_options_come_first(heart_files, tmp_path, source, options, configs, reason):
    found, said = chosen(heart_files, tmp_path, **options)
    assert found == configs and said.endswith(reason)
    assert source.asked == []


def test_a_preset_does_not_turn_a_plane_into_a_stack(heart_files, tmp_path, source):
    flat = changed(heart_files["fixed"], tmp_path / "flat.nii.gz", lambda a: a[:, :, 2:3])
    for preset in ("cardiac_mr", "abdomen_ct"):
        assert chosen({**heart_files, "fixed": flat}, tmp_path, preset=preset)[0][0] == "samreg.json"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sam": "vit_b", "instance_steps": 5},
            "--sam belongs to the method samreg and --instance_steps to the method",
        ),
        ({"checkpoint": "a.pt"}, "--checkpoint means different weights in each method; name the --method"),
        ({"epsilom": 1}, "There is no option --epsilom; did you mean --epsilon"),
    ],
)
def test_ambiguous_options_are_refused(heart_files, tmp_path, source, options, message):
    with pytest.raises(InputError, match=message):
        chosen(heart_files, tmp_path, **options)


def test_a_list_has_one_method(heart_files, tmp_path, source):
    """Every image counts; the heart is sought in the first pair; a pair that cannot be read decides nothing."""
    heart = {role: heart_files[role] for role in ("moving", "fixed")}
    gone = {"moving": "gone.nii.gz", "fixed": heart["fixed"]}
    odd = {**heart, "fixed": changed(heart["fixed"], tmp_path / "ct.nii.gz", lambda a: a - 1000)}

    def method(*rows):
        listed = write_list(tmp_path / "list.json", list(rows))
        configs, values = resolve(output_dir=str(tmp_path), pairs=listed, method="auto")
        return configs[0], values["method#reason"]

    assert method(gone, heart, heart)[0] == "inference.json"
    assert source.asked == [heart["moving"], heart["fixed"]]
    assert method(heart, odd) == ("samreg.json", f"{odd['fixed']} is unlike short-axis cardiac MR: its intensities are "
                                  "those of CT")  # fmt: skip
    assert method(gone) == ("samreg.json", "no image can be read")
    masked = method({**heart, "moving_mask": heart_files["moving_label"], "fixed_mask": heart_files["fixed_label"]})
    assert masked == ("inference.json", "the column moving_mask belongs to it")


def test_the_plan_says_why(heart_files, tmp_path, source, monkeypatch, capsys):
    words = ["register", heart_files["moving"], heart_files["fixed"], "--output_dir", str(tmp_path / "out")]
    assert run_main(monkeypatch, *words, "--method", "auto", "--dry_run") == 0
    assert "method: network, because the cardiac network finds the heart in " in capsys.readouterr().out
    plan = register(*words[1:3], str(tmp_path / "out"), method="auto", sam="compact", dry_run=True)["plan"]
    assert "method: samreg, because --sam belongs to it\n" in plan
    assert "method: samreg\n" in register(*words[1:3], str(tmp_path / "out"), dry_run=True)["plan"]
    assert not (tmp_path / "out").exists()


def test_the_results_say_why(phantoms, tmp_path, monkeypatch):
    reason = "it was <chosen> here"
    monkeypatch.setattr(verb, "choose", lambda *given: Choice("samreg", reason))
    options = {**QUICK, "overview": True, "method": "auto"}
    summary = register(
        pairs=write_list(tmp_path / "list.json", phantoms[:1]), output_dir=str(tmp_path / "out"), **options
    )
    record = json.loads((tmp_path / "out" / "heart0" / "correspondence.json").read_text(encoding="utf-8"))
    assert summary["method"] == record["method"] == {"name": "samreg", "reason": reason}
    for page in ("report.html", "heart0/report.html"):
        text = (tmp_path / "out" / page).read_text(encoding="utf-8")
        assert "Method: samreg, because it was &lt;chosen&gt; here" in text
    # Naming the same method gives the same result: nothing is done again.
    again = register(pairs=str(tmp_path / "list.json"), output_dir=str(tmp_path / "out"), **{**QUICK, "overview": True})
    assert again["done_before"] == 1 and again["method"]["reason"] is None


def test_the_shape_of_a_heart(heart_files):
    volume = read_volume(heart_files["moving_label"])
    labels, spacing = volume.array[0], volume.geometry.spacing
    assert is_heart(labels, spacing)
    assert not is_heart(np.where(labels == 3, 0, labels), spacing)  # no left ventricle
    assert not is_heart(np.choose(labels, [0, 2, 1, 3]), spacing)  # the right ventricle's label around the left one
    assert not is_heart(labels, tuple(0.2 * s for s in spacing))  # of a mouse
    scattered = np.random.default_rng(0).permutation(labels.ravel()).reshape(labels.shape)
    assert not is_heart(scattered, spacing)


@pytest.mark.slow
def test_the_cardiac_network_distinguishes_hearts(tmp_path, real_data):
    made = {"heart": cardiac_pair(0), "abdomen": abdomen_pair(0, (96, 96, 24), (4.0, 4.0, 9.0))}
    for name, pair in made.items():
        files = write_phantom(tmp_path / name, pair)
        if name == "abdomen":  # on the scale of MR, so that only the organs differ
            for role in ("moving", "fixed"):
                files[role] = changed(files[role], files[role], lambda a: a - a.min())
        assert chosen(files, tmp_path)[0][0] == {"heart": "inference.json", "abdomen": "samreg.json"}[name]
    for patient, (first, last) in {"patient011": (1, 8), "patient094": (1, 7)}.items():
        files = dict(zip(("moving", "fixed"), (
            str(real_data / "acdc" / patient / f"{patient}_frame{k:02d}.nii.gz") for k in (first, last)
        )))  # fmt: skip
        assert chosen(files, tmp_path)[0] == ["inference.json"]
