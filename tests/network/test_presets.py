"""The presets of network registration keep the settings that were chosen for them."""

from __future__ import annotations

from monai.bundle import ConfigParser

from scripts.network.refine import RefineSettings


def instance(bundle, *overlays: str) -> tuple[RefineSettings, int]:
    """The settings of the instance optimisation and the largest side of the grid, resolved."""
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / name) for name in ("inference.json", *overlays)])
    parser.update({"bundle_root": str(bundle)})
    return parser.get_parsed_content("inferer").settings, parser["max_size"]


def weights(settings: RefineSettings) -> dict[str, float]:
    return {name: term.weight for name, term in settings.terms.items()}


def test_abdomens_are_smoother_with_weaker_contours_on_a_coarser_grid(bundle):
    hearts, side = instance(bundle)
    abdomens, coarse = instance(bundle, "presets/network/abdomen_ct.json")
    assert (hearts.steps, side, abdomens.steps, coarse) == (0, 256, 20, 96)
    assert (hearts.learning_rate, abdomens.learning_rate) == (0.1, 0.15)
    assert weights(hearts) == {"lncc": 1.0, "diffusion": 0.45, "dice": 2.0, "contour": 0.005}
    assert weights(abdomens) == {**weights(hearts), "diffusion": 0.8, "contour": 0.0005}


def test_python_and_json_agree_on_the_weights(bundle):
    assert weights(RefineSettings()) == weights(instance(bundle)[0])
