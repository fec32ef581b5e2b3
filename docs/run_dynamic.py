"""Run a dynamic ONNX file: python run_dynamic.py network.onnx images.npy   (uint8 or float pixels, (B, C, H, W))"""

import json
import sys

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["slicebench"])
peak, mean, std = (np.float32(about["input"]["normalisation"][key]) for key in ("peak", "mean", "std"))
images = (np.load(sys.argv[2]) / peak - mean[:, None, None]) / std[:, None, None]
output, route = session.run(None, {"input": images.astype(np.float32)})
for scores, decisions in zip(output, route, strict=True):
    path = "-".join(map(str, decisions))
    print(about["classes"][scores.argmax()], path, about["madds"][path])
