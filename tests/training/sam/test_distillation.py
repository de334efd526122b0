"""Distillation: values of the loss, a student that learns its teacher's features, and refused input."""

from __future__ import annotations

import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from PIL import Image

from scripts.common.weights import export_weights
from scripts.sam.build import build_sam
from scripts.sam.compact import compact_sam
from scripts.sam.everything import encode
from scripts.training.sam.distillation import Distillation, TeacherFeatures, hold_out, inside_picture, student_of
from scripts.training.sam.pictures import cut_slices
from scripts.training.sam.shapes import shape_image
from scripts.workflow.outcome import input_error

SMALL = {"img_size": 64, "channels": [8, 16, 16, 32], "depths": [1, 1, 1, 1], "attention_depth": 1}


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory) -> str:
    """Weights of a teacher of a different size than its student."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    export_weights(compact_sam(96, 12, 48, 96, channels=(16, 24, 32, 48), depths=(1, 1, 1, 1), attention_depth=1), path)
    return str(path)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> str:
    """A folder with pictures, wide ones among them, and a volume."""
    folder = tmp_path_factory.mktemp("images")
    for k in range(12):
        picture = shape_image(np.random.default_rng(k), 96)[0]
        Image.fromarray(picture if k % 2 else picture[:60]).save(folder / f"{k:02d}.png")
    volume = np.stack([shape_image(np.random.default_rng(50 + k), 64)[0] for k in range(5)], axis=-1)
    nib.save(nib.Nifti1Image(volume.astype(np.float32), np.diag([1.0, 1.0, 4.0, 1.0])), folder / "volume.nii.gz")
    return str(folder)


def teacher_of(path: str) -> dict:
    return {"_target_": "scripts.sam.build.build_sam", "model": "compact", "checkpoint": path, "img_size": 96,
            "tokens": 12, "channels": [16, 24, 32, 48], "depths": [1, 1, 1, 1], "attention_depth": 1}  # fmt: skip


def test_loss_is_the_share_of_variance_that_is_left(tiny):
    torch.manual_seed(0)
    width = tiny.prompt_encoder.embed_dim
    network = Distillation(tiny, width).eval()
    image, scaled = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), torch.tensor([[64, 64], [40, 64]])
    seen = tiny.preprocess(image.float()) * inside_picture(scaled, 64)
    answer = tiny.image_encoder(seen).detach()
    with torch.no_grad():
        same = network(image, scaled, answer)
    assert float(same["features"]) == pytest.approx(0, abs=1e-6)
    assert float(same["similarity"]) == pytest.approx(1, abs=1e-4)
    # The teacher's features in the padding of the second picture do not count.
    spoilt = answer.clone()
    spoilt[1, :, 5:] = 1e3
    assert network(image, scaled, spoilt)["features"].item() == pytest.approx(0, abs=1e-6)
    # A student that always predicts the mean explains nothing.
    target = torch.randn(2, width, 8, 8)
    whole = torch.tensor([[64, 64], [64, 64]])
    mean = target.mean(dim=(0, 2, 3), keepdim=True).expand_as(target)
    network.student.image_encoder.forward = lambda x: mean
    assert float(network(image, whole, target)["features"]) == pytest.approx(1, rel=1e-4)


def test_teacher_and_student_see_the_same_places(tmp_path, tiny, bundled):
    """A bright spot of a wide picture lies at the same relative place in both embeddings."""
    picture = np.zeros((100, 200), np.uint8)
    picture[20:40, 150:180] = 255
    Image.fromarray(picture).save(tmp_path / "spot.png")
    made = TeacherFeatures(bundled, tiny)({"picture": tmp_path / "spot.png"})
    assert made["scaled"].tolist() == [32, 64]
    rows, columns = made["image"][0].float().div(255).round().nonzero().float().mean(dim=0).tolist()
    assert (rows, columns) == (pytest.approx(0.3 * 32, abs=0.6), pytest.approx(0.825 * 64, abs=0.6))
    assert not made["image"][:, 32:].any()
    whole, _ = encode(bundled, torch.from_numpy(picture).expand(1, 3, -1, -1).float())
    expected = torch.nn.functional.adaptive_avg_pool2d(whole, 8)[0]  # 24 x 24 tokens to 8 x 8
    torch.testing.assert_close(made["features"].float(), expected, rtol=2e-3, atol=2e-3)


def test_a_student_of_the_teachers_width_gets_its_decoder(bundled):
    student = student_of(bundled, tokens=8, **SMALL)
    for part in ("prompt_encoder", "mask_decoder"):
        theirs = getattr(bundled, part).state_dict()
        assert all(torch.equal(v, theirs[k]) for k, v in getattr(student, part).state_dict().items())
    narrow = student_of(bundled, tokens=8, width=32, **SMALL)
    assert narrow.prompt_encoder.embed_dim == 32
    assert isinstance(Distillation(narrow, 128).projection, torch.nn.Conv2d)
    assert isinstance(Distillation(student, 128).projection, torch.nn.Identity)


def run(bundle, tmp_path, images: str, teacher_file: str, epochs: int, **options):
    """One training, and the metrics of every validation."""
    workflow = ConfigWorkflow(
        str(bundle / "configs" / "distill_sam.json"), workflow_type="train", bundle_root=str(bundle), images=images,
        window="none", output_dir=str(tmp_path / "run"), dataset_dir=str(tmp_path / "slices"), max_epochs=epochs,
        batch_size=4, tokens=8, learning_rate=3e-3, amp=None, progress=False,
        **{"teacher_def": teacher_of(teacher_file), "network_def#img_size": 64, "network_def#channels": [8, 16, 16, 32],
           "network_def#depths": [1, 1, 1, 1], "network_def#attention_depth": 1, **options},
    )  # fmt: skip
    workflow.initialize()
    assert not workflow.check_properties()
    workflow.parser.get_parsed_content("prepare")
    evaluator = workflow.parser.get_parsed_content("validate#evaluator")
    metrics = []
    evaluator.add_event_handler(Events.COMPLETED, lambda engine: metrics.append(dict(engine.state.metrics)))
    workflow.run()
    workflow.finalize()
    return workflow, metrics


@pytest.mark.parametrize("width", [None, 32])
def test_the_student_learns_the_features_of_its_teacher(bundle, tmp_path, images, teacher_file, monkeypatch, width):
    """On held-out images, with the teacher's width and through a projection."""
    _, metrics = run(bundle, tmp_path, images, teacher_file, 12, width=width)
    before, after = metrics[0], metrics[-1]
    assert before["relative_error"] > 1  # the mean of the teacher's features would be 1
    assert after["relative_error"] < 0.9
    assert after["similarity"] > before["similarity"] + 0.25
    # It stops and resumes: three more epochs, without the teacher.
    monkeypatch.setattr(TeacherFeatures, "__call__", None)
    workflow, more = run(bundle, tmp_path, images, teacher_file, 15, width=width)
    assert more[0]["relative_error"] == pytest.approx(after["relative_error"], rel=0.05)
    assert workflow.parser.get_parsed_content("train#trainer").state.epoch == 15
    built = build_sam("compact", str(tmp_path / "run" / "compact_sam.pt"), tokens=8, **SMALL)
    assert built.prompt_encoder.embed_dim == (width or 48)


def test_slices_are_cut_once(images, tmp_path):
    made = cut_slices(images, tmp_path, "none", progress=False)
    assert [len(pictures) for pictures in made] == [1] * 12 + [5]
    with Image.open(made[0][0]) as first, Image.open(f"{images}/00.png") as source:
        assert np.array_equal(np.asarray(first)[..., 0], np.asarray(source))
    stamps = [p.stat().st_mtime_ns for p in tmp_path.rglob("*.png")]
    assert cut_slices(images, tmp_path, "none", progress=False) == made
    assert [p.stat().st_mtime_ns for p in tmp_path.rglob("*.png")] == stamps
    assert [len(pictures) for pictures in cut_slices(images, tmp_path, "none", most=2, progress=False)][-1] == 2
    learned, held = hold_out(made, 0.25)
    assert len(learned) + len(held) == 17
    assert {p["picture"].rsplit("/", 1)[0] for p in learned}.isdisjoint(p["picture"].rsplit("/", 1)[0] for p in held)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "No image was found for None; give an image, a pattern, or a list of images."),
        (["--images", "gone.nii.gz"], "gone.nii.gz does not exist; give the path of an image file or of a DICOM"),
        (["--images", "{one}"], "There is only one picture; give at least two"),
        (["--images", "{one}", "--window", "bone"], "window must be one of auto, mr, ct, none, got 'bone'"),
        (["--images", "{black}"], "has the value 0 everywhere; there is nothing to"),
        (["--images", "{images}", "--slices_per_image", "0"], "slices_per_image must be at least 1, got 0"),
        (["--images", "{images}", "--validation_share", "1.5"], "validation_share must lie between 0 and 1, got 1.5"),
        (["--images", "{images}", "--width", "20"], "width must be a multiple of 16, got 20"),
        (["--images", "{images}", "--checkpoint", "gone.pth"], "The compact SAM's weights gone.pth are missing"),
        (["--images", "{images}", "--teacher", "vit_x"], "Unknown SAM 'vit_x'; choose one of compact"),
    ],
)
def test_bad_input_is_one_sentence(bundle, tmp_path, images, options, message):
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "black.png")
    places = {"{one}": f"{images}/01.png", "{black}": str(tmp_path / "black.png"), "{images}": images}
    words = [places.get(w, w) for w in options]
    values = dict(zip([w.removeprefix("--") for w in words[::2]], words[1::2]))
    values = {k: float(v) if k == "validation_share" else int(v) if v.isdigit() else v for k, v in values.items()}
    with pytest.raises(Exception) as caught:  # MONAI wraps what a config's expression raises
        workflow = ConfigWorkflow(
            str(bundle / "configs" / "distill_sam.json"), workflow_type="train", bundle_root=str(bundle),
            **{"teacher": "compact", "output_dir": str(tmp_path / "run"), "dataset_dir": str(tmp_path / "slices"),
               "progress": False, **values},
        )  # fmt: skip
        workflow.initialize()
        workflow.run()
    sentence = str(input_error(caught.value))
    assert message in sentence and "\n" not in sentence
    assert not (tmp_path / "run").exists()


def test_command_ends_with_a_code(bundle, tmp_path):
    words = ["--config_file", "configs/distill_sam.json", "--images", "gone.png", "--teacher", "compact"]
    words += ["--output_dir", str(tmp_path / "run"), "--dataset_dir", str(tmp_path / "slices")]
    run = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", *words],
        cwd=bundle, capture_output=True, encoding="utf-8", timeout=200,
    )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1].startswith("error: gone.png does not exist")
    assert list(tmp_path.iterdir()) == []
