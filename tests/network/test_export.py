"""TorchScript and ONNX by the bundle's own commands give what the network gives."""

from __future__ import annotations

import pytest
import torch
from monai.bundle import ckpt_export, onnx_export, verify_net_in_out

from scripts.network.model import CrossFusionNet

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
    image = torch.rand(SHAPE)
    image[:, 2:] = (image[:, 2:] * 4).floor()
    with torch.no_grad():
        expected = net(image)
    assert float(expected.abs().max()) > 0.3
    return net, image, expected, arguments


@pytest.mark.filterwarnings("ignore")
def test_torchscript(exported, tmp_path):
    _, image, expected, arguments = exported
    ckpt_export(filepath=str(tmp_path / "model.ts"), use_trace=True, **arguments)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(image), expected, atol=1e-4, rtol=0)


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
