"""Eight models of timm of different kinds: three counters of each, and each pruned to half by L1.

    python docs/examples/timm_table.py [NAME ...]

Weights are random, for neither a count nor a width depends on them. The counters are the operators that torch
executes, the graph that fvcore reads, and the nodes that ONNX Runtime says it ran (extra `onnx`).
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from baselines.pruning_budget import check_budget, prune_to_budget
from baselines.pruning_criteria import CRITERIA
from bench.core.errors import UserError
from bench.export import onnx_file, proof
from bench.models import PRESETS
from bench.profilers.madds import executed_madds, fvcore_madds
from bench.slicing.extract import extract, parameters_of

NAMES = (
    "resnet18",
    "mobilenetv3_small_100",
    "efficientnet_b0",
    "convnext_atto",
    "regnety_002",
    "densenet121",
    "deit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
)


def onnx_madds(network, x):
    """Multiply-adds that ONNX Runtime executes for one image."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        onnx_file.write(path, network, x.repeat(2, 1, 1, 1), ("output",), {})
        return sum(proof.executed(path, x).values())


def said(count, *arguments):
    """A count, or the sentence that says why there is none."""
    try:
        return count(*arguments)
    except (UserError, torch.onnx.errors.OnnxExporterError) as error:
        return " ".join(str(error).split())[:200]


def row(name):
    """(name, MAdds, verdict of the counters, fraction after pruning and what was left alone)."""
    preset = PRESETS.get(f"timm:{name}")
    torch.manual_seed(0)
    net = preset.build().eval()
    network = extract(net, net.space.largest).eval()
    x = torch.zeros(1, preset.channels, preset.image_size, preset.image_size)
    counts = {"torch": said(executed_madds, network, x), "fvcore": said(fvcore_madds, network, x)}
    counts["onnx"] = said(onnx_madds, network, x)
    agree = "all agree" if len(set(counts.values())) == 1 else "; ".join(f"{k}: {v}" for k, v in counts.items())
    try:
        untouched = check_budget(network, x, 0.5, CRITERIA["l1"])
        pruned = prune_to_budget(network, x, 0.5, CRITERIA["l1"])
    except UserError as error:
        return name, counts["torch"], agree, "-", "-", str(error)
    executed = executed_madds(pruned.network.eval(), x)
    parameters = parameters_of(pruned.network) / parameters_of(network)
    return name, counts["torch"], agree, f"{executed / counts['torch']:.4f}", f"{parameters:.3f}", untouched


def main(names):
    print("| model | MAdds | three counters | pruned to | parameters | left alone |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in names:
        cells = row(name)
        print("|", " | ".join(f"{cell:,}" if isinstance(cell, int) else cell for cell in cells), "|", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or NAMES)
