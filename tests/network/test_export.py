"""Exported to TorchScript or ONNX, a network gives the same field as before."""

from __future__ import annotations

import pytest
import torch
from monai.bundle import ckpt_export, onnx_export, verify_net_in_out

from scripts.network.correlation import CorrelationVolume
from scripts.network.model import CrossFusionNet
from scripts.network.pair_network import PairNetwork
from scripts.network.voxelmorph import VoxelMorphNet

SHAPE = [1, 4, 16, 12, 3]


@pytest.fixture
def exported(bundle, tmp_path):
    """A small network with large fields, and the arguments of the export commands."""
    torch.manual_seed(0)
    net = CrossFusionNet(channels=(4, 8), strides=(2, 2, 1), window=(4, 4, 2), diffeomorphic=True).eval()
    for level in net.levels:
        torch.nn.init.normal_(level.head.weight, std=0.05)
    torch.save(net.state_dict(), tmp_path / "w.pt")
    arguments = {
        "net_id": "network_def",
        "config_file": str(bundle / "configs" / "inference.json"),
        "meta_file": str(bundle / "configs" / "metadata.json"),
        "ckpt_file": str(tmp_path / "w.pt"),
        "input_shape": SHAPE,
        "network_def#channels": [4, 8],
    }
    image = pair(SHAPE)
    with torch.no_grad():
        expected = net(image)
    assert float(expected.abs().max()) > 0.3
    return net, image, expected, arguments


def pair(shape: list[int]) -> torch.Tensor:
    image = torch.rand(shape)
    image[:, 2:] = (image[:, 2:] * 4).floor()
    return image


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("use_trace", [False, True])
def test_torchscript(exported, tmp_path, use_trace):
    _, image, expected, arguments = exported
    ckpt_export(filepath=str(tmp_path / "model.ts"), use_trace=use_trace, **arguments)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(image), expected, atol=1e-6, rtol=0)


SMALL = {"channels": (4, 8), "window": 3}
SCRIPTED = {
    "2-D": (lambda: CrossFusionNet(2, **SMALL), [2, 4, 13, 10]),
    "3-D": (lambda: CrossFusionNet(3, strides=(2, 2, 1), **SMALL), [1, 4, 9, 8, 3]),
    "3-D, one voxel": (lambda: CrossFusionNet(3, **SMALL), [1, 4, 3, 2, 1]),
    "diffeomorphic": (lambda: CrossFusionNet(3, diffeomorphic=True, one_field=True, **SMALL), [1, 4, 9, 8, 5]),
    "correlation": (lambda: CrossFusionNet(3, channels=(4, 8, 8), window=3, correlation=1), [1, 4, 9, 8, 5]),
    "checkpointing": (lambda: CrossFusionNet(2, checkpointing=True, **SMALL), [1, 4, 13, 10]),
    "baseline": (lambda: VoxelMorphNet(3, channels=(4, 8), final_channels=(4,)), [1, 4, 9, 8, 3]),
    "baseline without integration": (
        lambda: VoxelMorphNet(2, channels=(4, 8), final_channels=(4,), integration_steps=0),
        [2, 4, 9, 8],
    ),
}


def with_large_fields(net: PairNetwork) -> PairNetwork:
    heads = [m for m in net.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Conv3d))]
    for head in heads:
        if head.out_channels == net.spatial_dims:
            torch.nn.init.normal_(head.weight, std=0.2)
    for volume in net.modules():
        if isinstance(volume, CorrelationVolume):
            torch.nn.init.normal_(volume.mix.weight)
    return net.eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", SCRIPTED)
def test_a_scripted_network_takes_any_size(case, tmp_path):
    torch.manual_seed(0)
    make, shape = SCRIPTED[case]
    net = with_large_fields(make())
    torch.jit.save(torch.jit.script(net), tmp_path / "model.ts")
    scripted = torch.jit.load(tmp_path / "model.ts")
    for sizes in (shape, [s if i < 2 else s + 1 for i, s in enumerate(shape)]):
        image = pair(sizes)
        with torch.no_grad():
            expected = net(image)
            for _ in range(2):  # the second run is the optimised one
                torch.testing.assert_close(scripted(image), expected, atol=1e-6, rtol=0)
        assert float(expected.abs().max()) > 0.05


@pytest.mark.slow
def test_onnx_and_the_network_still_works_afterwards(exported, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="onnx, onnxscript and onnxruntime are not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    net, image, expected, arguments = exported
    onnx_export(filepath=str(tmp_path / "model.onnx"), **arguments)
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    out = session.run(None, {session.get_inputs()[0].name: image.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(out), expected, atol=1e-4, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(net(image), expected)


def test_metadata_describes_the_network(bundle):
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=str(bundle / "configs" / "inference.json"),
        n=8,
        **{"network_def#channels": [4, 8]},
    )
