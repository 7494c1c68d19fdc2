"""ONNX files and folded weights against the network that they come from."""

import onnx
import onnxruntime
import pytest
import torch
from conftest import TINY, TINY_BN

from bitlib import ResNetV2, UserError, create_model
from bitlib.export import export_onnx
from bitlib.norm import StdConv2d, fold_standardized


def trained(arch=TINY) -> ResNetV2:
    model = ResNetV2(arch, 3).eval()
    torch.nn.init.normal_(model.head.weight)
    return model


def run(path, x) -> torch.Tensor:
    return torch.from_numpy(onnxruntime.InferenceSession(path).run(None, {"x": x.numpy()})[0])


@pytest.mark.parametrize("arch", [TINY, TINY_BN])
def test_folding_changes_no_output_and_leaves_the_original_alone(arch):
    model, x = trained(arch).train(), torch.randn(2, 3, 16, 16)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    folded = fold_standardized(model)
    assert not any(isinstance(m, StdConv2d) for m in folded.modules()) and not folded.training and model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    torch.testing.assert_close(folded(x), model.eval()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("features", [False, True])
def test_onnx_gives_what_torch_gives_for_any_batch(tmp_path, features):
    model = trained()
    export_onnx(model, tmp_path / "m.onnx", 16, features=features)
    for n in (1, 5):
        x = torch.rand(n, 3, 16, 16) * 2 - 1
        wanted = model.forward_head(model.forward_features(x), pre_logits=features)
        torch.testing.assert_close(run(tmp_path / "m.onnx", x), wanted.detach(), rtol=1e-4, atol=1e-4)


def test_half_storage_loses_nothing_of_a_course_model(tmp_path):
    model, x = create_model("photos-S", pretrained=True).eval(), torch.rand(4, 3, 32, 32) * 2 - 1
    for half in (False, True):
        export_onnx(model, tmp_path / f"{half}.onnx", 32, half=half)
        with torch.no_grad():
            torch.testing.assert_close(run(tmp_path / f"{half}.onnx", x), model(x), rtol=1e-4, atol=1e-4)
    assert (tmp_path / "True.onnx").stat().st_size < 0.6 * (tmp_path / "False.onnx").stat().st_size
    kinds = {t.data_type for t in onnx.load(tmp_path / "True.onnx").graph.initializer if len(t.dims) == 4 and t.dims[1] > 1}
    assert kinds == {onnx.TensorProto.FLOAT16}


def test_half_storage_refuses_to_round(tmp_path):
    with pytest.raises(UserError, match="16 bits would round; export with half=False"):
        export_onnx(trained(), tmp_path / "m.onnx", 16, half=True)
    assert not list(tmp_path.iterdir())


def test_command(tmp_path, capsys):
    import json

    from bitlib.cli import main

    assert main(["export", "glyphs-S", str(tmp_path / "m.onnx")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "x: float [N, 3, 32, 32], RGB in [-1, 1]",
        f"logits: float [N, {len(names())}]",
        f"written to {tmp_path / 'm.onnx'}",
    ]
    kept = {p.key: p.value for p in onnx.load(tmp_path / "m.onnx").metadata_props}
    assert json.loads(kept["class_names"]) == list(names()) and kept["side"] == "32"
    assert main(["export", str(tmp_path / "none.safetensors"), str(tmp_path / "n.onnx")]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "n.onnx").exists()


def names():
    from bitlib import model_info

    return model_info("glyphs-S").class_names
