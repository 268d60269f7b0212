"""What an exported student sees in an image: python examples/classify.py student.onnx photo.jpg."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map
_, channels, height, width = session.get_inputs()[0].shape
image = Image.open(sys.argv[2]).convert("RGB" if channels == 3 else "L").resize((width, height))
pixels = np.asarray(image, np.float32).reshape(height, width, channels) / 255
mean, std = (np.array(json.loads(about[name]), np.float32) for name in ("mean", "std"))
images = ((pixels - mean) / std).transpose(2, 0, 1)[None]  # (1, channels, height, width)
(logits,) = session.run(["logits"], {"images": images})
print(json.loads(about["classes"])[int(logits.argmax())])
