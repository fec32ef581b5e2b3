"""`slicebench export`: what a run trained, as files that run elsewhere.

A sub-network or a pruned network is one file: safetensors (the tensors of a plain network and the spec to rebuild it),
pt2 (`torch.export`) or ONNX. A dynamic point is one ONNX file that routes a batch inside itself. Every file is loaded
and run on real images beside the view before it gets its name; one that does not agree is an error and leaves nothing
behind.
"""

from bench.export.job import export_run
from bench.export.safetensors_file import load_plain

__all__ = ["export_run", "load_plain"]
