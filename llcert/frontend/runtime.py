"""onnxruntime, where it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]

_FILE_FORMAT = 8
"""A version of the file format that every onnxruntime reads."""

_WEIGHTS_OUTSIDE = "session.model_external_initializers_file_folder_path"


def onnxruntime() -> Any:
    """The module; None where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    return onnxruntime


def session(model: bytes, *, optimised: bool, folder: str = "") -> Any:
    """A session of one thread on the CPU; raises what onnxruntime raises.

    optimised: with rewrites of its own. folder: where weights lie that the model leaves outside.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if folder:
        options.add_session_config_entry(_WEIGHTS_OUTSIDE, folder)
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_node(node: onnx.NodeProto, inputs: Mapping[str, Array], opset: int) -> list[Array]:
    """The outputs of one node of a file by the runtime's own kernel; raises what onnxruntime raises.

    inputs: by name. Types that numpy lacks are handed over inside the model, for only onnx knows them.
    """
    native = {name: array for name, array in inputs.items() if isinstance(array.dtype.type(0), np.number | np.bool_)}
    images = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in native.items()
    ]
    held = [numpy_helper.from_array(a, n) for n, a in inputs.items() if n not in native]
    results = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "constant", images, results, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=_FILE_FORMAT)
    found: list[Array] = session(model.SerializeToString(), optimised=False).run(None, native)
    return [np.asarray(value) for value in found]
