"""Export to other runtimes: ONNX files with standardised weights folded in. Needs the packages onnx and onnxscript."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .files import UserError, atomic_path
from .norm import WS_EPS, StdConv2d, fold_standardized
from .resnet import ResNetV2


class _Features(nn.Module):
    def __init__(self, model: ResNetV2):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model.forward_head(self.model.forward_features(x), pre_logits=True)


def export_onnx(
    model: ResNetV2,
    path: str | Path,
    side: int,
    *,
    features: bool = False,
    half: bool = False,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write `model` to an ONNX file. Its input is "x", float [N, 3, side, side] in [-1, 1], for any N.

    Its output is "logits" [N, num_classes], or with `features` the pooled "features" [N, num_features]. half: store the
    convolutions in 16 bits, as the course's weight files do, and standardise them in 32 bits when the file is loaded; the
    file is half as large. metadata: stored in the file. Raises UserError if a package is missing, or if `half` would round a
    weight.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  the exporter needs it, and says so less clearly
    except ImportError as error:
        raise UserError(f"exporting needs the package {error.name!r}; pip install onnx onnxscript") from None
    stored = {name: m.weight.detach().cpu() for name, m in model.named_modules() if isinstance(m, StdConv2d)}
    if half and not stored:
        raise UserError("half is for weight-standardised convolutions, and this network has none; export with half=False")
    if half and (lossy := [n for n, w in stored.items() if not torch.equal(w, w.half().float())]):
        raise UserError(f"{lossy[0]} holds numbers that 16 bits would round; export with half=False")
    folded = fold_standardized(model).cpu().to(memory_format=torch.contiguous_format)
    network = _Features(folded) if features else folded
    output = "features" if features else "logits"
    # A batch of 2, because the exporter treats a size of 1 as fixed.
    x, batch = torch.zeros(2, 3, side, side), torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            names = {"input_names": ["x"], "output_names": [output], "dynamic_shapes": {"x": {0: batch}}}
            program = torch.onnx.export(network.eval(), (x,), dynamo=True, verbose=False, **names)
        finally:
            logging.disable(level)
    proto = program.model_proto
    onnx.helper.set_model_props(proto, metadata or {})
    if half:
        _store_in_half(proto, {("model." if features else "") + name + ".weight": w for name, w in stored.items()})
    with atomic_path(Path(path)) as temporary:
        onnx.save(proto, temporary)


def _store_in_half(proto, stored: dict[str, torch.Tensor]) -> None:
    """Replace folded weights with the stored ones in 16 bits, and add nodes that fold them; runtimes run those on loading."""
    from onnx import TensorProto, helper, numpy_helper

    graph, nodes = proto.graph, []
    for tensor in list(graph.initializer):
        if tensor.name not in stored:
            continue
        name, weight = tensor.name, stored[tensor.name].double()
        var, mean = torch.var_mean(weight, dim=(1, 2, 3), keepdim=True, correction=0)
        parts = {
            "half": weight.numpy().astype(np.float16),
            "mean": mean.numpy().astype(np.float32),
            "inverse": (var + WS_EPS).rsqrt().numpy().astype(np.float32),
        }
        graph.initializer.remove(tensor)
        graph.initializer.extend(numpy_helper.from_array(array, f"{name}.{part}") for part, array in parts.items())
        nodes += [
            helper.make_node("Cast", [f"{name}.half"], [f"{name}.stored"], to=TensorProto.FLOAT),
            helper.make_node("Sub", [f"{name}.stored", f"{name}.mean"], [f"{name}.centred"]),
            helper.make_node("Mul", [f"{name}.centred", f"{name}.inverse"], [name]),
        ]
    for i, node in enumerate(nodes):
        graph.node.insert(i, node)
