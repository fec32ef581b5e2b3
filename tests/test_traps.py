"""Mistakes seen in this field's public code that a look at the source rules out, and parameters counted by hand.

Traps that behaviour shows are tested with what they concern.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench.models import PRESETS
from bench.points import subnetwork_point
from bench.slicing.extract import extract, parameters_of
from bench.slicing.layers import SlicedConv2d

ROOT = Path(__file__).parent.parent
TREES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text())
    for room in ("bench", "baselines")
    for path in sorted((ROOT / room).rglob("*.py"))
}


def calls(tree: ast.AST) -> Iterator[str]:
    """The dotted name of all that is called: `torch.manual_seed`, `data.open_test`, `f`; "" for an expression."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield dotted(node.func)


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


CALLED = {path: set(calls(tree)) for path, tree in TREES.items()}


def callers(*names: str) -> set[str]:
    """Files that call something whose dotted name ends in one of these."""
    ends = tuple(f".{name}" for name in names)
    return {path for path, called in CALLED.items() if any(f".{call}".endswith(ends) for call in called)}


def importers(module: str) -> set[str]:
    """Files that import a module or something of it."""
    found = set()
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] == module for name in names):
                found.add(path)
    return found


def test_the_test_split_is_opened_by_final_points_only():
    """Nothing that trains, calibrates or selects can reach it: an epoch cannot be picked on it."""
    executing = {"bench/runs/phases.py", "bench/runs/verify.py"}  # verify executes them again
    showing = {"bench/commands/facts.py"}  # the site's pictures and scores by class, after everything is judged
    assert callers("open_test") == executing | showing


def test_nothing_is_pickled():
    """Checkpoints are tensors and JSON. CIFAR's python version is a pickle, and so are weights that others publish;
    their readers run no code of them."""
    foreign = "bench/models/weights_file.py"
    assert callers("torch.load", "torch.save", "torch.jit.load", "pickle.load", "pickle.dump") == {foreign}
    assert importers("pickle") | importers("dill") | importers("joblib") == {"bench/data/cifar_files.py"}
    loads = [
        node
        for node in ast.walk(TREES[foreign])
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert loads
    assert all("weights_only=True" in ast.unparse(node) for node in loads)


def test_random_numbers_come_from_seeds_that_are_named():
    """A seed is set where a thing is built or a step begins, and no generator of the whole process is drawn from."""
    seeded = {"bench/methods/start.py", "bench/training/loop.py", "bench/runs/verify.py"}
    assert callers("torch.manual_seed") == seeded, "verify shows that routes do not follow the seed"
    seeded = callers("random.seed", "np.random.seed", "torch.seed", "torch.cuda.manual_seed_all")
    assert seeded == {"bench/data/transforms.py"}, "timm's RandAugment draws from them; they are put back afterwards"
    drawn = {f"random.{name}" for name in ("random", "randint", "randrange", "choice", "sample", "shuffle")}
    drawn |= {f"np.random.{name}" for name in ("rand", "randn", "randint", "permutation", "choice", "shuffle")}
    found = {(path, call) for path, called in CALLED.items() for call in called & drawn}
    assert found == set()


def test_noise_belongs_to_training():
    """What adds Gumbel noise is called where gates are trained, nowhere else; evaluation takes the largest logit."""
    noisy = callers("gumbel_straight_through", "gumbel_softmax")
    assert noisy == {"bench/slicing/gate.py", "baselines/layer_skip.py"}
    assert callers("gate.sample") == {"bench/training/gating.py"}


def test_statistics_are_not_reset_by_a_helper_that_knows_no_choices():
    fresh = {"baselines/autoslim.py"}  # a plain network, about to be trained from scratch
    assert callers("update_bn_stats", "reset_running_stats") == fresh


def test_seen_by_these_rules():
    """The rules can fail: each is shown what it must see."""
    tree = ast.parse("import torch as t\ndata.split.open_test()\nx = torch.load(f)\n(lambda: 1)()\nf(random.random())")
    assert set(calls(tree)) == {"data.split.open_test", "torch.load", "", "f", "random.random"}
    assert callers("stable_seed"), "a call by its bare name is seen"


# Parameters of the supernet reported for a sub-network: 1,728 for 432.


def test_a_slice_owns_its_part_of_the_weights():
    conv = SlicedConv2d(3, 64, 3)
    assert parameters_of(conv) == 1728
    assert parameters_of(conv.extract(3, 16)) == 432


def by_hand(stem, a, b, c, d, squeeze):
    """Weights of `ds_mobilenet_micro8` at these widths: a stem and five blocks, two of them in the third stage."""
    total = 9 * stem + 2 * stem  # one input channel; batch norm has a scale and a shift
    for inp, out, squeezed in zip((stem, a, b, c, c), (a, b, c, c, d), squeeze, strict=True):
        total += 9 * inp + 2 * inp  # depth-wise convolution and its norm
        total += inp * squeezed + squeezed + squeezed * inp + inp  # channel attention
        total += inp * out + 2 * out  # point-wise convolution and its norm
    return total + 10 * d + 10


@pytest.mark.parametrize("name", ["uniform0", "uniform3", "largest"])
def test_parameters_of_a_point_by_hand(name):
    net = PRESETS.get("ds_mobilenet_micro8").build()
    choice = next(choice for choice in net.space.named if net.space.name_of(choice) == name)
    widths, largest = ([net.space.width(c, stage) for stage in range(5)] for c in (choice, net.space.largest))
    squeeze = [largest[stage] // 2 for stage in (0, 1, 2, 3, 3)]  # static: half of the largest width in front
    point, route = subnetwork_point(net, choice, 8), torch.empty(1, 0, dtype=torch.int64)
    counted = by_hand(*widths, squeeze)
    assert point.params_active(route).tolist() == [counted]
    assert parameters_of(extract(net, choice)) == counted
    assert point.params_stored == parameters_of(net) == by_hand(*largest, squeeze)
