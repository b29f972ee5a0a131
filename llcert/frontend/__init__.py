"""From ONNX files and torch modules to graphs of operators, and back to ONNX.

There are two doors, one for ONNX files and one for torch. What comes in is compared with its own runtime.

| what | files |
|---|---|
| either door: reading, and the comparison on inputs of many kinds | `load`, `comparison`, `probing` |
| an ONNX file brought to one form | `normalise`, `functions`, `external`, `nested` |
| its nodes become operators | `onnx_file`, `literal`, `signature`, `attributes` |
| its constants, and sizes of batches | `constants`, `folding`, `rules`, `moving_rules`, `rule_inputs`, `symbols` |
| torch modules and saved programs | `exported`, `pt2`, `traced_graph`, `traced`, `traced_calls`, `promotion` |
| what is refused, and what would help | `advice`, `refusals`, `limits` |
| the original in its own runtime, and by another tool | `original`, `torch_original`, `runtime`, `second_opinion` |
| layout and normalisation in front of a network | `adapt` |
| networks as ONNX files | `writer` |
"""
