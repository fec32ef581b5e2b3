"""Runs a routed network that `slicebench export` wrote into this folder.

Needs numpy and onnxruntime (for a folder of pt2 files: torch), nothing else.

    from run_routed import Routed
    output, route = Routed("folder")(images)          # images: float32 (B, C, H, W), normalised as routed.json says

    python run_routed.py images.npy result.npz        # the same from a shell

`routed.json` lists the segments. All images run the first one, `prefix`, once and together. Every segment but the last
ends in a gate: it returns the activation and one logit an option. Each image goes on in the segment that stands at
the place of its largest logit; images that meet in one segment run it together. `route` (B, G) holds the option that
each gate took, as an index into the list of the supernet's own options.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Segment = Callable[[np.ndarray], Any]


class Routed:
    """A routed network: images (B, C, H, W) to the output (B, ...) and the decisions of its G gates, int64 (B, G).

    Args:
        folder: what `slicebench export` wrote.
        threads: of each segment (onnxruntime only); 0 for all cores.
    """

    def __init__(self, folder: str | Path, threads: int = 0) -> None:
        folder = Path(folder)
        self.manifest = json.loads((folder / "routed.json").read_text(encoding="utf-8"))
        opened = {"onnx": lambda file: _onnx(file, threads), "pt2": _pt2}[self.manifest["format"]]
        self._segments: dict[str, Segment] = {
            name: opened(folder / segment["file"]) for name, segment in self.manifest["segments"].items()
        }

    def run(self, name: str, x: np.ndarray) -> list[np.ndarray]:
        """One segment: [activation, logits] in front of a gate, [output] behind the last."""
        return self._segments[name](np.ascontiguousarray(x))

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if images.ndim != 4 or not len(images):
            raise ValueError(f"images must be (B, C, H, W) with B of at least 1, not {images.shape}")
        options = self.manifest["options"]  # of each gate
        route = np.empty((len(images), len(options)), dtype=np.int64)
        groups = {"prefix": (np.arange(len(images)), images)}
        for gate, values in enumerate(options):
            arrived: dict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
            for name, (rows, x) in groups.items():
                activation, logits = self.run(name, x)
                taken = logits.argmax(axis=1)
                route[rows, gate] = np.asarray(values)[taken]
                for place in np.unique(taken):
                    here = taken == place
                    arrived[self.manifest["segments"][name]["next"][place]].append((rows[here], activation[here]))
            groups = {name: _together(parts) for name, parts in arrived.items()}
        return self._finished(groups, len(images)), route

    def _finished(self, groups: dict[str, tuple[np.ndarray, np.ndarray]], count: int) -> np.ndarray:
        """Outputs of the last segments, back in the rows of their images."""
        results = [(rows, self.run(name, x)[0]) for name, (rows, x) in groups.items()]
        output = np.empty((count, *results[0][1].shape[1:]), dtype=results[0][1].dtype)
        for rows, part in results:
            output[rows] = part
        return output


def _together(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([x for _, x in parts])


def _onnx(file: Path, threads: int) -> Segment:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"input": x})


def _pt2(file: Path) -> Segment:
    import torch

    network = torch.export.load(file).module()

    def run(x: np.ndarray) -> list[np.ndarray]:
        with torch.no_grad():
            found = network(torch.from_numpy(x))
        return [part.numpy() for part in (found if isinstance(found, tuple) else (found,))]

    return run


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: python run_routed.py images.npy result.npz")
    output, route = Routed(Path(__file__).parent)(np.load(sys.argv[1]).astype(np.float32))
    np.savez(sys.argv[2], output=output, route=route)


if __name__ == "__main__":
    main()
