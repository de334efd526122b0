"""SAT against the recorded facts of the original: every key, every shape, and the logits of fixed weights."""

from __future__ import annotations

import json
import sys
import zlib

import numpy as np
import pytest
import torch

from scripts.common.errors import InputError
from scripts.masks.sat.network import SAT, SIZES, SATSize, clean_keys, position_code
from scripts.masks.sat.source import FILES, SATSource, percentiles, prepare
from scripts.masks.sat.text import Prompts, TextEncoder
from tests.masks.conftest import volume_of


@pytest.fixture
def facts(real_data):
    folder = real_data.parent / "reference" / "sat"
    if not folder.is_dir():
        pytest.skip(f"no recorded facts of SAT at {folder}")
    return folder


def by_rule(shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """The tensors that the reference was computed with: a generator seeded by each key."""
    state = {}
    for key, shape in shapes.items():
        z = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
        if len(shape) > 1:
            z = z / np.sqrt(np.prod(shape[1:])).astype(np.float32)
        else:
            z = 1 + 0.1 * z if key.endswith("weight") else 0.1 * z
        state[key] = torch.from_numpy(z.astype(np.float32))
    return state


@pytest.mark.parametrize("size", ["nano", "pro"])
def test_every_key_and_shape_of_the_release(facts, size):
    shapes = json.loads((facts / f"sat_{size}_state_dict.json").read_text(encoding="utf-8"))
    released = {f"module.{key}": torch.empty(shape, device="meta") for key, shape in shapes.items()}
    with torch.device("meta"):
        ours = SAT(size).state_dict()
    theirs = clean_keys(released)
    assert set(ours) == set(theirs)
    assert {k: tuple(v.shape) for k, v in ours.items()} == {k: tuple(v.shape) for k, v in theirs.items()}


def test_logits_of_the_original(facts):
    shapes = json.loads((facts / "sat_nano_state_dict.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        network = SAT("nano", query_batch=2)
    network.load_state_dict(clean_keys(by_rule(shapes)), assign=True)
    with np.load(facts / "sat_nano_reference.npz") as reference, torch.no_grad():
        image = torch.from_numpy(reference["image"]).expand(-1, 3, -1, -1, -1)
        logits = network.eval()(image, torch.from_numpy(reference["queries"]))
        assert np.abs(logits.numpy() - reference["logits"]).max() < 1e-3


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A SAT with few image channels, saved as a release is, and embedded prompts of it."""
    folder = tmp_path_factory.mktemp("sat")
    patch = pytest.MonkeyPatch()
    patch.setitem(SIZES, "mini", SATSize((4, 4, 4, 8, 8, 8), 1, 16, 8))
    patch.setitem(FILES, "mini", ("mini.pth", "mini_text.pth"))
    torch.manual_seed(0)
    state = {f"module.{k}": v.half() for k, v in SAT("mini").state_dict().items()}
    torch.save({"model_state_dict": state}, folder / "mini.pth")
    vectors = np.random.default_rng(0).normal(size=(3, 768)).astype(np.float32)
    np.savez(folder / "prompts.npz", **{"mr|liver": vectors[0], "mr|spleen": vectors[1], "ct|liver": vectors[2]})
    yield {
        "size": "mini",
        "checkpoint": str(folder / "mini.pth"),
        "prompts": str(folder / "prompts.npz"),
        "window": (64, 64, 32),
    }
    patch.undo()


def test_masks_on_the_native_grid(small):
    volume = volume_of((20, 18, 14), (5.0, 5.0, 7.0))
    source = SATSource(**small, query_batch=1)
    masks = source(volume, "Liver, spleen", "mr", probabilities=True)
    assert masks.names == ("liver", "spleen")
    assert masks.labels.shape == volume.geometry.shape and masks.labels.dtype == np.uint8
    likely = masks.probabilities.float().numpy()
    assert likely.shape == (2, *volume.geometry.shape) and likely.min() >= 0 and likely.max() <= 1
    # A voxel has the label whose probability is the largest, if it is above one half.
    sure = np.abs(likely - 0.5).min(axis=0) > 0.01
    expected = np.where(likely.max(axis=0) > 0.5, likely.argmax(axis=0) + 1, 0)
    agree = (masks.labels == expected)[sure & (likely.max(axis=0) > 0)]
    assert agree.size and agree.mean() > 0.98
    coarse = SATSource(**small, precision="bfloat16")(volume, "liver", "mr", probabilities=True).probabilities
    torch.testing.assert_close(coarse[0].float(), masks.probabilities[0].float(), atol=0.1, rtol=0)
    one = SATSource(**small)(volume, "spleen", "mr", probabilities=True).probabilities
    torch.testing.assert_close(one[0].float(), masks.probabilities[1].float(), atol=2e-3, rtol=0)


def test_preparation_against_the_description():
    volume = volume_of((30, 28, 12), (1.5, 1.5, 4.0))
    image = torch.from_numpy(volume.array)
    image[:, :6] = 0
    grid, ready = prepare(image, volume.geometry, "mr")
    np.testing.assert_allclose(grid.spacing, (1.0, 1.0, 3.0), rtol=0.02)
    assert np.all(np.diag(grid.affine)[:3] > 0)  # RAS
    assert ready.shape == (1, *grid.shape)
    assert abs(float(ready.mean())) < 1e-4 and float(ready.std()) == pytest.approx(1, abs=1e-3)
    hounsfield = torch.tensor([-3000.0, -500, 0, 1000, 3000]).repeat(4, 4, 1)[None]
    from scripts.spatial.geometry import Geometry

    _, ct = prepare(hounsfield, Geometry((4, 4, 5), np.diag([1.0, 1.0, 3.0, 1.0])), "ct")
    values = ct.unique()
    # -3000 and -500 are one value after clipping, the lowest, and cropped away; 1000 and 3000 are one.
    assert len(values) == 2


def test_percentiles():
    values = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 40, 30, 20)).astype(np.float32))
    np.testing.assert_allclose(percentiles(values), np.percentile(values.numpy(), [0.5, 99.5]), atol=0.01)


def test_position_code_by_hand():
    code = position_code((2, 3, 4), 768)
    assert code.shape == (2, 3, 4, 768)
    rate = 10000 ** (-2 / 256)
    np.testing.assert_allclose(code[1, 2, 3, 2:4], [np.sin(rate), np.cos(rate)], rtol=1e-5)
    np.testing.assert_allclose(code[1, 2, 3, 256:258], [np.sin(2), np.cos(2)], rtol=1e-5)
    np.testing.assert_allclose(code[1, 2, 3, 512 + 3], np.cos(3 * rate), rtol=1e-4)


def test_bad_input(small, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"The weights of SAT nano are not at .*gone.pth; get Nano/nano.pth from"):
        SATSource(checkpoint=str(tmp_path / "gone.pth"))
    with pytest.raises(InputError, match="Unknown size 'huge' of SAT; choose one of nano, pro"):
        SATSource("huge")
    with pytest.raises(InputError, match=r"three multiples of 32, got \[64, 64, 30\]"):
        SATSource(**{**small, "window": (64, 64, 30)})
    with pytest.raises(InputError, match="precision must be one of float32, float16, bfloat16, got 'int8'"):
        SATSource(**small, precision="int8")
    saved = torch.load(small["checkpoint"], weights_only=True)
    del saved["model_state_dict"]["module.backbone.encoder.stages.0.0.convs.0.conv.weight"]
    torch.save(saved, tmp_path / "less.pth")
    with pytest.raises(InputError, match=r"does not fit SAT mini: 1 entries differ, first backbone.encoder.stages.0.0"):
        SATSource(**{**small, "checkpoint": str(tmp_path / "less.pth")})
    source = SATSource(**small)
    with pytest.raises(InputError, match="The source sat has no structure 'livver'; did you mean 'liver'"):
        source(volume_of(), "livver", "mr")
    with pytest.raises(InputError, match="SAT needs a 3-D image of one channel"):
        source(volume_of((40, 40), (2.0, 2.0)), "liver", "mr")
    with pytest.raises(ValueError, match=r"must be \(B, 3, X, Y, Z\) with sides that 32 divides"):
        source.network(torch.zeros(1, 3, 32, 32, 20), torch.zeros(1, 768))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match="needs the package transformers; pip install"):
        source(volume_of(), "pancreas", "mr")


class Words:
    """Counts calls; a text encoder whose embedding is the length of the word."""

    calls = 0

    def __call__(self, names, modality):
        Words.calls += 1
        return torch.tensor([[float(len(n))] * 768 for n in names])


def test_prompts_are_embedded_once(tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.masks.sat.text.load_text_encoder", lambda *_: Words())
    prompts = Prompts(tmp_path / "deep" / "prompts.npz", "text.pth")
    assert prompts(["liver", "spleen"], "ct")[:, 0].tolist() == [5, 6]
    assert prompts(["spleen", "liver"], "ct")[:, 0].tolist() == [6, 5]
    assert Words.calls == 1
    assert prompts(["spleen"], "mr").shape == (1, 768)
    assert Words.calls == 2
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["prompts.npz"]
    (tmp_path / "deep" / "prompts.npz").write_bytes(b"no")
    with pytest.raises(InputError, match="is not a readable file of prompts; delete it"):
        prompts(["liver"], "ct")


def test_text_encoder_loads_the_released_weights(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.MPNetConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    vocabulary = ["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>", "liver", "left", "kidney"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    config.save_pretrained(tmp_path)
    tokenizer = transformers.MPNetTokenizer(str(tmp_path / "vocab.txt"))
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    encoder = TextEncoder(transformers.MPNetModel(config), tokenizer).eval()
    state = {f"module.{k}": v for k, v in encoder.state_dict().items()}
    state |= {"module.temperature": torch.ones(1), "module.atlas_tower.w": torch.ones(2)}
    torch.save({"model_state_dict": state}, tmp_path / "text.pth")
    prompts = Prompts(tmp_path / "prompts.npz", tmp_path / "text.pth", str(tmp_path))
    got = prompts(["liver", "left kidney"], "ct")
    torch.testing.assert_close(got, encoder(["liver", "left kidney"], "ct"))
    # Padding must not change the embedding of the shorter name.
    torch.testing.assert_close(got[:1], encoder(["liver"], "ct"), atol=1e-5, rtol=1e-4)
    shift = encoder.modality_embed.weight
    other = prompts(["liver"], "mr")
    torch.testing.assert_close(other - got[:1], (shift[1] - shift[0])[None].detach(), atol=1e-5, rtol=1e-4)
    del state["module.projection_layer.0.weight"]
    torch.save(state, tmp_path / "text.pth")
    with pytest.raises(InputError, match=r"SAT's text encoder: 1 entries differ, first projection_layer.0.weight"):
        prompts(["kidney"], "ct")
    with pytest.raises(InputError, match="cannot be loaded"):
        Prompts(tmp_path / "p.npz", tmp_path / "text.pth", str(tmp_path / "nowhere" / "x" / "y"))(["liver"], "ct")
