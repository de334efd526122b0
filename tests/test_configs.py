"""The configs: MONAI workflows with every property, no idle option, one source of defaults, a complete record."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from monai.bundle import ConfigParser, ConfigWorkflow, verify_metadata
from monai.utils import optional_import

from scripts.workflow.options import KINDS
from scripts.workflow.record import flat_settings

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SCHEMA = Path(__file__).with_name("metadata_schema.json")
FILES = {
    "samreg": ["samreg.json"],
    "vit_b": ["samreg.json", "sam/vit_b.json"],
    "correspond": ["samreg.json", "correspond.json"],
    "cohort": ["samreg.json", "cohort.json"],
}
TRAIN_MASKS = ["train_masks.json", "datasets/acdc_masks.json"]
NETWORK = [
    ["inference.json"],
    ["inference.json", "evaluate.json"],
    ["inference.json", "evaluate.json", "multi_gpu_evaluate.json"],
    ["train.json"],
    ["train.json", "multi_gpu_train.json"],
    ["train.json", "datasets/acdc.json"],
    ["train.json", "datasets/abdomen_ct.json"],
    ["train.json", "datasets/learn2reg.json"],
    ["train.json", "train_source_masks.json"],
    ["train.json", "datasets/acdc.json", "ablation/voxelmorph.json", "ablation/no_dice.json"],
]
SAM = [["train_sam.json"], ["train_sam.json", "multi_gpu_train_sam.json"], ["distill_sam.json"]]
OVERLAYS = {"metadata", "cohort", "cohort_network", "correspond", "evaluate", "masks_vista3d", "multi_gpu_evaluate",
            "multi_gpu_train", "multi_gpu_train_sam", "train_sam_no_contrast", "train_source_masks"}  # fmt: skip
MASKS = [TRAIN_MASKS, [*TRAIN_MASKS, "datasets/abdomen_ct_masks.json"]]


def parsed(names: list[str], **values) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / name) for name in names])
    parser.update({"bundle_root": str(CONFIGS.parent), **values})
    return parser


def workflow(names: list[str], **values) -> ConfigWorkflow:
    return ConfigWorkflow(
        [str(CONFIGS / name) for name in names],
        workflow_type="inference",
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        bundle_root=str(CONFIGS.parent),
        **values,
    )


@pytest.mark.parametrize("name", ["samreg", "correspond", "cohort"])
def test_inference_workflows_have_all_properties(tmp_path, name):
    (tmp_path / "pairs.csv").write_text("moving,fixed\na.nii.gz,b.nii.gz\n", encoding="utf-8")
    values = {"points": [[0, 0, 0]], "pairs": str(tmp_path / "pairs.csv")}
    built = workflow(FILES[name], dataset_dir=str(tmp_path), output_dir=str(tmp_path / "out"), **values)
    built.initialize()
    assert built.check_properties() == []


def test_masks_workflow_has_all_properties(tmp_path, untrained):
    options = {"source_options": {"checkpoint": untrained["cardiac"]}}
    built = workflow(["masks.json"], dataset_dir=str(tmp_path), output_dir=str(tmp_path / "out"), **options)
    built.initialize()
    assert built.check_properties() == []


def test_vista3d_overlay_asks_for_what_the_bundle_takes():
    """The overlay changes known keys only, and gives the bundle's class prompts under the name that VISTA3D reads."""
    base, overlay = (ConfigParser.load_config_file(CONFIGS / f) for f in ("masks.json", "masks_vista3d.json"))
    assert set(overlay) <= set(base)
    assert overlay["source_options"]["prompt_key"] == "label_prompt"


def walk(value, path: str = ""):
    """Every dict and every plain value of a config with its path."""
    yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from walk(inner, f"{path}#{key}" if path else str(key))


@pytest.mark.parametrize("names", [*FILES.values(), *SAM, *MASKS, *NETWORK])
def test_expressions_stay_one_short_line(names):
    for path, text in walk(ConfigParser.load_config_files([str(CONFIGS / name) for name in names])):
        if isinstance(text, str) and text.startswith("$"):
            assert "\n" not in text and len(text) < 100, path


@pytest.mark.parametrize("name", sorted(p.name for p in CONFIGS.glob("*.json") if p.stem not in OVERLAYS))
def test_options_of_the_config_are_all_used(name):
    """A key that nothing refers to is an option that does nothing."""
    text = (CONFIGS / name).read_text(encoding="utf-8")
    used = set(re.findall(r"@(\w+)", text))
    machinery = {"imports", "run", "finalize", "dataloader", "evaluator"}
    assert set(json.loads(text)) - machinery - used == set()


@pytest.mark.parametrize("name", ["samreg.json", "inference.json", "masks.json"])
def test_plain_values_at_the_top_are_documented_options(name):
    """Everything else at the top is an object that an overlay can replace."""
    machinery = {"imports", "bundle_root", "network", "handlers", "inputs", "prepare", "run", "use_click"}
    plain = {k for k, v in ConfigParser.load_config_file(CONFIGS / name).items() if not isinstance(v, dict)}
    assert plain - machinery - KINDS.keys() == set()


@pytest.mark.parametrize("overlay", [None, *sorted((CONFIGS / "sam").glob("*.json"))], ids=lambda p: p and p.stem)
def test_thresholds_of_masks_reach_everything_mode_of_every_model(overlay):
    names = ["samreg.json", *([f"sam/{overlay.name}"] if overlay else [])]
    everything = parsed(names, pred_iou_thresh=0.43, stability_score_thresh=0.21).get_parsed_content("everything")
    assert (everything.pred_iou_thresh, everything.stability_score_thresh) == (0.43, 0.21)


# Arguments that a config sets to something other than the default of the constructor, on purpose.
DELIBERATE = {
    ("samreg.json", "discrete"),  # DenseSettings() is the paper's objective, the config what measured best
    ("samreg.json", "image_weight"),
    ("samreg.json", "position_sigma_mm"),  # depends on init
    ("samreg.json", "intensity_weight"),
    ("inference.json", "reorient"),  # the network was trained on axes in a fixed order
    ("inference.json", "strides"),  # the next four belong to the bundled weights
    ("inference.json", "window"),
    ("inference.json", "structures"),
    ("inference.json", "diffeomorphic"),
}


@pytest.mark.parametrize("name", ["samreg.json", "correspond.json", "inference.json", "evaluate.json", "masks.json"])
def test_defaults_of_python_and_config_agree(name):
    config = ConfigParser.load_config_file(CONFIGS / name)
    options = {**ConfigParser.load_config_file(CONFIGS / "samreg.json"), **config}
    differ = []
    for path, part in walk(config):
        if not isinstance(part, dict) or not str(part.get("_target_", "")).startswith("scripts."):
            continue
        module, _, attribute = part["_target_"].rpartition(".")
        made, found = optional_import(module, name=attribute)
        assert found, part["_target_"]
        parameters = inspect.signature(made).parameters
        for key, value in part.items():
            default = parameters[key].default if key in parameters else inspect.Parameter.empty
            if isinstance(value, str) and value.startswith("@"):
                value = options.get(value[1:], value)
            computed = isinstance(value, dict) or (isinstance(value, str) and value[:1] in "$@")
            if default is inspect.Parameter.empty or default is None or computed or (name, key) in DELIBERATE:
                continue
            if value is not None and value != default:
                differ.append(f"{path}#{key}: {value!r} in the config, {default!r} in Python")
    assert not differ, "\n".join(differ)


# Options that do not change a result; every other one must change the record.
BOOKKEEPING = {
    *(
        "bundle_root",
        "device",
        "dataset_dir",
        "output_dir",
        "sample",
        "progress",
        "cache_dir",
        "cache_gb",
        "mask_cache",
    ),
    *("overview", "viewer_size", "keep", "inverse", "structures", "network", "use_click"),
    *(
        f"{role}{kind}"
        for role in ("moving", "fixed")
        for kind in ("", "_label", "_landmarks", "_frame", "_mask", "_exclude")
    ),
}
OTHER = {
    "window": "ct", "init": "affine", "header": "sform", "sam": "vit_b", "precision": "bfloat16", "overlap": "smaller",
    "linking": "slice", "slice_axis": 1, "matching": "mutual", "max_pairs": 4, "position_sigma_mm": 2.0,
    "fill_nan": 0.0, "checkpoint": "mine.pt", "masks": "abdomen", "spatial_dims": 2, "strides": 2,
    "attention_window": 3, "passes": 2, "points_frame": "lps", "second_look": False, "image_term": "lncc",
    "intensity_weight": 3.0, "region_weight": 0.4, "min_area_mm2": 50.0, "max_area_mm2": 9000.0,
    "instance_weights": {"lncc": 2.0, "diffusion": 0.8, "dice": 1.0, "contour": 0.005},
}  # fmt: skip


@pytest.mark.parametrize("name", ["samreg.json", "inference.json"])
def test_every_option_is_in_the_record(name):
    """Changing any option that can change a result changes the record."""
    config = ConfigParser.load_config_file(CONFIGS / name)
    options = [k for k, v in config.items() if not isinstance(v, (dict, list)) or k in OTHER]
    assert len(options) > 20
    for key in sorted(set(options) - BOOKKEEPING):
        value = config[key]
        assert key in OTHER or isinstance(value, (int, float)), f"{key} needs another value to compare with"
        other = OTHER[key] if key in OTHER else not value if isinstance(value, bool) else value * 0.9 + 1e-3
        other = int(other) + 1 if type(value) is int and key not in OTHER else other
        beside = {"masks": "abdomen"} if key == "redraw" else {}  # masks of hearts are never drawn again
        before, after = (parsed([name], **beside, **o).get_parsed_content("parameters") for o in ({}, {key: other}))
        assert json.dumps(after, sort_keys=True) != json.dumps(before, sort_keys=True), key


def test_the_record_names_settings_and_their_values():
    record = flat_settings(parsed(["samreg.json", "sam/vit_b.json"]).get_parsed_content("parameters"))
    assert record["sam"] == "vit_b" and record["preprocessing.window"] == "auto"
    assert record["registration.everything.everything.pred_iou_thresh"] == 0.9
    assert record["registration.settings.smoothness"] == 14.0
    assert not any("dir" in key or "progress" in key for key in record)


def test_metadata_fits_the_specification(tmp_path):
    metadata = json.loads((CONFIGS / "metadata.json").read_text(encoding="utf-8"))
    copy = tmp_path / "metadata.json"

    def verify(**changes) -> None:
        copy.write_text(json.dumps({k: v for k, v in (metadata | changes).items() if v != "gone"}), encoding="utf-8")
        verify_metadata(meta_file=str(copy), filepath=str(SCHEMA))

    verify()
    for wrong in ({"version": "gone"}, {"authors": 3}, {"version": "1"}, {"network_data_format": {"inputs": {}}}):
        with pytest.raises(ValueError, match="Failed validating"):
            verify(**wrong)
    assert metadata["version"] in metadata["changelog"]
    # MONAI reads this old name as required_packages_version, and replaces the required list with it.
    with pytest.raises(ValueError, match="Failed validating"):
        verify(optional_packages_version={})
    assert all(0 < value < 100 for value in metadata["eval_metrics"].values())


def test_named_handlers_can_be_replaced_and_disabled_by_name(tmp_path):
    """An overlay changes one handler; MONAI's list of handlers stays open for its tracking."""
    listed = tmp_path / "pairs.json"
    overlay = {
        "named_handlers#table#_disabled_": True,
        "+handlers": [{"_target_": "StatsHandler"}],
        "pairs": str(listed),
    }
    (tmp_path / "mine.json").write_text(json.dumps(overlay), encoding="utf-8")
    listed.write_text(json.dumps([{"moving": str(listed), "fixed": str(listed)}]), encoding="utf-8")
    parser = parsed(["inference.json", "evaluate.json", str(tmp_path / "mine.json")])
    handlers = parser.get_parsed_content("evaluator#val_handlers")
    assert [type(h).__name__ for h in handlers] == ["StatsHandler"]
    parser = parsed(["inference.json", "evaluate.json"], pairs=str(listed))
    assert [type(h).__name__ for h in parser.get_parsed_content("evaluator#val_handlers")] == ["CohortTable"]


def run_bundle_command(tmp_path, *words: str) -> subprocess.CompletedProcess:
    run = subprocess.run(
        [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/samreg.json", *words,
         "--moving", "none.nii.gz", "--fixed", "none.nii.gz", "--output_dir", str(tmp_path)],
        cwd=CONFIGS.parent, capture_output=True, encoding="utf-8", timeout=200,
    )  # fmt: skip
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert list(tmp_path.iterdir()) == []
    return run


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "none.nii.gz does not exist; give the path of an image file or of a DICOM folder."),
        (("--sam", "vit_b"), "--sam vit_b needs its own settings: add 'configs/sam/vit_b.json' to --config_file after "
                             "'configs/samreg.json'."),
    ],
)  # fmt: skip
def test_bundle_command_refuses_bad_input_in_one_sentence(tmp_path, words, sentence):
    assert run_bundle_command(tmp_path, *words).stderr.strip().splitlines()[-1] == f"error: {sentence}"
