"""The configs are MONAI workflows with every property, and their metadata fits the schema."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow, verify_metadata

FILES = {"samreg": ["samreg.json"], "correspond": ["samreg.json", "correspond.json"],
         "cohort": ["samreg.json", "cohort.json"]}  # fmt: skip
TRAIN_ANATOMY = ["train_anatomy.json", "datasets/acdc_anatomy.json"]
NETWORK = [
    ["inference.json"],
    ["inference.json", "evaluate.json"],
    ["inference.json", "evaluate.json", "multi_gpu_evaluate.json"],
    ["train.json"],
    ["train.json", "multi_gpu_train.json"],
    ["train.json", "datasets/acdc.json"],
    ["train.json", "datasets/abdomen_ct.json"],
    ["train.json", "datasets/acdc.json", "ablation/voxelmorph.json", "ablation/no_dice.json"],
]


@pytest.mark.parametrize("name", FILES)
def test_inference_workflows_have_all_properties(bundle, tmp_path, name):
    (tmp_path / "pairs.csv").write_text("moving,fixed\na.nii.gz,b.nii.gz\n", encoding="utf-8")
    workflow = ConfigWorkflow(
        [str(bundle / "configs" / f) for f in FILES[name]],
        workflow_type="inference",
        meta_file=str(bundle / "configs" / "metadata.json"),
        bundle_root=str(bundle),
        dataset_dir=str(tmp_path),
        output_dir=str(tmp_path / "out"),
        points=[[0, 0, 0]],
        pairs=str(tmp_path / "pairs.csv"),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_masks_workflow_has_all_properties(bundle, tmp_path, untrained):
    workflow = ConfigWorkflow(
        str(bundle / "configs" / "masks.json"),
        workflow_type="inference",
        meta_file=str(bundle / "configs" / "metadata.json"),
        bundle_root=str(bundle),
        dataset_dir=str(tmp_path),
        output_dir=str(tmp_path / "out"),
        source_options={"checkpoint": untrained["cardiac"]},
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_vista3d_overlay_asks_for_what_the_bundle_takes(bundle):
    """The overlay changes known keys only, and gives the bundle's class prompts under the name that VISTA3D reads."""
    configs = bundle / "configs"
    base = json.loads((configs / "masks.json").read_text(encoding="utf-8"))
    overlay = json.loads((configs / "masks_vista3d.json").read_text(encoding="utf-8"))
    assert set(overlay) <= set(base)
    assert overlay["source_options"]["prompt_key"] == "label_prompt"


SAM = [["train_sam.json"], ["train_sam.json", "multi_gpu_train_sam.json"], ["distill_sam.json"]]
ANATOMY = [TRAIN_ANATOMY, [*TRAIN_ANATOMY, "datasets/abdomen_ct_anatomy.json"]]


@pytest.mark.parametrize("names", [*FILES.values(), *SAM, *ANATOMY, *NETWORK])
def test_expressions_stay_one_short_line(bundle, names):
    config = ConfigParser.load_config_files([str(bundle / "configs" / name) for name in names])

    def texts(value):
        if isinstance(value, dict):
            for v in value.values():
                yield from texts(v)
        elif isinstance(value, list):
            for v in value:
                yield from texts(v)
        elif isinstance(value, str) and value.startswith("$"):
            yield value

    for text in texts(config):
        assert "\n" not in text and len(text) < 100, text


@pytest.mark.parametrize("name", ["samreg.json", "inference.json", "train.json", "train_sam.json", "distill_sam.json"])
def test_options_of_the_config_are_all_used(bundle, name):
    """A key that nothing refers to is a flag that does nothing."""
    text = (bundle / "configs" / name).read_text(encoding="utf-8")
    known = set(json.loads(text))
    machinery = {"imports", "initialize", "run", "finalize", "dataloader", "evaluator"}
    for key in known - machinery:
        assert f"@{key}" in text.replace("#", "@"), key


def test_metadata_fits_the_schema(bundle, real_data, tmp_path):
    schema = real_data.parent / "reference" / "meta_schema_20240725.json"
    if not schema.exists():
        pytest.skip(f"no offline copy of the schema at {schema}")
    copy = tmp_path / "schema.json"
    copy.write_bytes(schema.read_bytes())
    verify_metadata(meta_file=str(bundle / "configs" / "metadata.json"), filepath=str(copy))


def test_bundle_command_refuses_bad_input_in_one_sentence(bundle, tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/samreg.json", "--moving", "none.nii.gz",
         "--fixed", "none.nii.gz", "--output_dir", str(tmp_path)],
        cwd=bundle, capture_output=True, text=True, encoding="utf-8", timeout=200,
    )  # fmt: skip
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1] == (
        "error: none.nii.gz does not exist; give the path of an image file or of a DICOM folder."
    )
    assert "Traceback" not in run.stderr
    assert list(tmp_path.iterdir()) == []
