"""Models in ONNX files, as people have them, in the place of torch networks."""
