"""From ONNX files and torch modules to graphs of operators, and back to ONNX."""
