"""Static int8 for any float ONNX model: observe its activations once, place Q/DQ pairs per target.

Knows numpy, onnx and onnxruntime; neither torch, nor the pipeline, nor the targets.
"""
