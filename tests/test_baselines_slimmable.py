"""S-Net and AutoSlim: switchable batch norm, the greedy search by hand and by another implementation, its networks."""

import random

import pytest
import torch
from small_runs import digits, small_net, small_spec, trained_points
from torch import nn

from baselines.autoslim import AutoSlim, AutoSlimOptions, error_of, plain_choice, random_choice, sandwich
from baselines.autoslim_search import choice_at, madds_of, rungs_of, slim, stage_rungs
from baselines.switchable import SNet, choices_of
from bench.core.errors import UserError
from bench.methods import completed
from bench.models import PRESETS
from bench.slicing.bound import BatchChoice
from bench.slicing.choice import Choice
from bench.slicing.extract import extract, parameters_of
from bench.slicing.norms import SwitchableBatchNorm2d
from bench.tasks.classification import Classification
from bench.training import checkpoint
from bench.training.joint import Lesson

SWITCHABLE = ["s_mobilenet_micro8", "s_resnet_micro8"]


def images(count=16):
    return next(digits().validation.batches(count)).x


# Switchable batch norm.


@pytest.mark.parametrize("name", SWITCHABLE)
@torch.no_grad()
def test_scales_and_shifts_of_one_width_are_its_own(name):
    net, x = small_net(name).eval(), images()
    before = [net(x, choice) for choice in net.space.named]
    for module in net.modules():
        if isinstance(module, SwitchableBatchNorm2d):
            for key, parameter in module.named_parameters():
                if key.partition("_")[2] in net.space.uniform(1).keys:
                    parameter.add_(0.3)
    after = [net(x, choice) for choice in net.space.named]
    assert [torch.equal(old, new) for old, new in zip(before, after, strict=True)] == [True, False, True, True]


@pytest.mark.parametrize(
    ("ours", "shared"), [("s_mobilenet_micro8", "us_mobilenet_micro8"), ("s_resnet50", "us_resnet50")]
)
def test_it_stores_what_shared_norms_do_and_those_of_the_narrower_widths(ours, shared):
    with torch.device("meta"):
        net, other = PRESETS.get(ours).build(), PRESETS.get(shared).build()
    norms = [module for module in net.modules() if isinstance(module, SwitchableBatchNorm2d)]
    widths = [[len(norm.statistics(choice.key(norm_depth(norm)))[0]) for choice in net.space.named] for norm in norms]
    assert parameters_of(net) - parameters_of(other) == sum(2 * sum(row[:-1]) for row in widths)
    assert all(row == sorted(row) for row in widths)


def norm_depth(norm):
    return next(iter(norm.state_dict())).count("__") + 1


def test_a_width_trains_as_the_plain_network_with_its_norms_does():
    """By another way: the extracted network in training mode gives the same output, statistics and gradients."""
    net, x = small_net("s_mobilenet_micro8"), images()
    choice = net.space.uniform(2)
    plain = extract(net, choice).train()
    ours, theirs = net.train()(x, choice), plain(x)
    torch.testing.assert_close(ours, theirs)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    norm = next(module for module in net.modules() if isinstance(module, SwitchableBatchNorm2d))
    other = next(module for module in plain.modules() if isinstance(module, nn.BatchNorm2d))
    torch.testing.assert_close(norm.get_parameter("weight_2").grad, other.weight.grad)
    torch.testing.assert_close(norm.statistics("2")[0], other.running_mean)
    assert norm.get_parameter("weight_1").grad is None


def test_widths_are_those_of_the_network():
    space = PRESETS.get("s_mobilenet_micro8").build().space
    assert list(choices_of(space, (1.0, 0.25))) == [0.25, 1.0]
    for widths, said in (((0.3,), "0.3"), ((), "none")):
        with pytest.raises(UserError, match=f"no sub-network has width {said}: .* 0.25, 0.5, 0.75, 1"):
            choices_of(space, widths)


def test_families_without_batch_norm_are_refused():
    with pytest.raises(UserError, match=r"s_net serves s_mobilenet_micro32, .*, not ds_resnet_micro8"):
        completed(small_spec("s_net", model="ds_resnet_micro8"))
    assert SNet().serves(PRESETS.get("s_resnet_micro32"))


# AutoSlim's search.


def test_rungs_by_hand():
    assert rungs_of((4, 4, 8, 8, 12), 4) == [1, 3, 4], "of equal widths the last"
    assert rungs_of(tuple(range(1, 32)), 10) == list(range(0, 31, 3))
    assert rungs_of((8, 16), 10) == [0, 1]
    assert rungs_of((8,), 3) == [0]


def test_a_search_by_hand():
    """Two stages of three widths; cost is the product of the levels + 1, errors are given for every network."""
    errors = {(2, 1): 0.2, (1, 2): 0.1, (0, 2): 0.4, (1, 1): 0.3, (0, 1): 0.2, (1, 0): 0.9, (0, 0): 0.0}
    rungs = [[0, 1, 2], [0, 1, 2]]

    def levels(choice):
        (first,), (second,) = choice.indices
        return first, second

    def madds(choice):
        first, second = levels(choice)
        return (first + 1) * (second + 1)

    found, path = slim(rungs, [9, 6, 3], lambda choice: (errors[levels(choice)],), madds)
    assert {budget: levels(choice) for budget, choice in found.items()} == {9: (2, 2), 6: (1, 2), 3: (0, 1)}
    assert path == [(6, (0.1,)), (4, (0.3,)), (2, (0.2,))]


@pytest.mark.parametrize("seed", range(5))
def test_a_search_by_another_implementation(seed):
    """On random errors with ties: at every step a sorted list of all removals, budgets found afterwards."""
    generator = random.Random(seed)
    net = PRESETS.get("us_mobilenet_layers_micro8").build()
    rungs, table = stage_rungs(net.space, 4), {}

    def error_of(choice):
        if choice not in table:
            table[choice] = (generator.randrange(3), generator.random())
        return table[choice]

    def cost(choice):
        return madds_of(net, choice, 8)

    budgets = [int(share * cost(net.space.largest)) for share in (0.9, 0.5, 0.2)]
    found, path = slim(rungs, budgets, error_of, cost)
    positions = {stage: list(steps) for stage, steps in enumerate(rungs)}
    chain = [net.space.largest]
    while any(len(steps) > 1 for steps in positions.values()) and cost(chain[-1]) > budgets[-1]:
        options = []
        for stage, steps in positions.items():
            if len(steps) > 1:
                indices = tuple((s[-2 if t == stage else -1],) for t, s in positions.items())
                options.append((table.get(Choice(indices)) or error_of(Choice(indices)), stage, Choice(indices)))
        _, stage, choice = sorted(options, key=lambda option: option[:2])[0]
        positions[stage].pop()
        chain.append(choice)
    assert [madds for madds, _ in path] == [cost(choice) for choice in chain[1:]]
    assert found == {b: next(choice for choice in chain if cost(choice) <= b) for b in budgets}
    costs = [cost(found[budget]) for budget in budgets]
    assert costs == sorted(costs, reverse=True)


def test_a_budget_below_the_narrowest_network_is_refused_before_any_work():
    with pytest.raises(ValueError, match="the narrowest network has 1 multiply-adds, more than 0"):
        slim([[0]], [0], lambda choice: (0.0,), lambda choice: 1)
    spec = small_spec("autoslim", options={"budgets": [0.5, 0.01]})
    with pytest.raises(
        UserError, match=r"budget 0.01 is out of reach: the narrowest network of us_.* has 0\.\d+ of the"
    ):
        AutoSlim().check(spec, PRESETS.get(spec.model).build(), 8)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"budgets": (0.5, 1.5)}, "budgets of autoslim must be at most 1, not 1.5"),
        ({"budgets": ()}, "budgets of autoslim must be a list of 1 or more"),
        ({"budgets": (0.5, 0.5)}, "names each once"),
        ({"groups": 0}, "groups of autoslim must be at least 1"),
        ({"retrain_epochs": -1}, "retrain_epochs of autoslim must be at least 0"),
    ],
)
def test_impossible_options_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        small_spec("autoslim", options=options)


# AutoSlim's networks.


def test_random_choices_take_every_stage_on_its_own():
    space = PRESETS.get("us_mobilenet_layers_micro8").build().space
    drawn = [random_choice(space, random.Random(seed)) for seed in range(200)]
    for index, stage in enumerate(space.stages):
        widths = stage.values("filters")
        taken = [widths[choice.indices[index][0]] for choice in drawn]
        assert set(taken) == set(widths)
        even = len(drawn) / len(set(widths))
        assert max(map(taken.count, widths)) < 2.5 * even, "no width is drawn more often because several steps hold it"
    assert sum(len(set(choice.indices)) > 1 for choice in drawn) > 190


def test_the_largest_teaches_the_others():
    space = PRESETS.get("us_mobilenet_micro8").build().space
    first, *others = sandwich(space, AutoSlimOptions(), random.Random(0))
    assert first == Lesson(BatchChoice(space.largest))
    assert (others[-1].choice, len(others)) == (BatchChoice(space.smallest), 3)
    assert all((lesson.labels, lesson.teacher) == (0.0, 0) for lesson in others)
    plain = sandwich(space, AutoSlimOptions(inplace_distillation=False), random.Random(0))
    assert all((lesson.labels, lesson.teacher) == (1.0, None) for lesson in plain)


@pytest.mark.parametrize("name", ["us_mobilenet_layers_micro8", "us_resnet_micro8"])
@torch.no_grad()
def test_a_network_without_a_name_runs_by_the_batch_and_can_be_copied(name):
    """Its copy in training mode, which uses the batch's statistics too, gives the same output."""
    net, x = small_net(name), images()
    choice = random_choice(net.space, random.Random(1))
    assert choice not in net.space.named
    plain = plain_choice(net, choice, torch.zeros(2, 1, 8, 8))
    torch.testing.assert_close(plain(x), net.eval()(x, BatchChoice(choice)), rtol=1e-4, atol=1e-5)
    assert all(p.requires_grad for p in plain.parameters())
    norms = [module for module in plain.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) > 4


@torch.no_grad()
def test_removals_are_judged_by_images_not_solved_then_by_the_loss():
    net, batch = small_net("us_mobilenet_micro8").eval(), next(digits().validation.batches(50))
    choice = random_choice(net.space, random.Random(2))
    output = net(batch.x, BatchChoice(choice))
    missed = sum(int(row.argmax()) != int(label) for row, label in zip(output, batch.targets, strict=True)) / 50
    loss = nn.functional.cross_entropy(output, batch.targets).item()
    assert error_of(net, choice, batch, Classification()) == pytest.approx((missed, loss))


def test_each_budget_is_met_and_its_network_trained_from_scratch(tmp_path):
    spec = small_spec("autoslim", options={"budgets": [0.5, 0.8, 0.3], "groups": 5, "retrain_epochs": 0})
    points = trained_points(spec, tmp_path)
    net = PRESETS.get(spec.model).build()
    full = net.cost(net.space.largest, 8).madds
    shares = {point.name: int(point.madds(torch.zeros(1, 0))) / full for point in points}
    assert list(shares) == ["slim@0.5", "slim@0.8", "slim@0.3"]
    assert all(share <= float(name.partition("@")[2]) for name, share in shares.items())
    assert shares["slim@0.3"] < shares["slim@0.5"] < shares["slim@0.8"]
    tensors, notes = checkpoint.load(tmp_path / "checkpoints" / "found.safetensors", spec.run_id)
    assert set(tensors) == {"0.5", "0.8", "0.3"}
    assert len(notes["path"]) >= 5
    trained, _ = checkpoint.load(tmp_path / "checkpoints" / "supernet.safetensors", spec.run_id)
    fresh, _ = checkpoint.load(tmp_path / "checkpoints" / "slim@0.5.safetensors", spec.run_id)
    stem, learnt = fresh["network/0.weight"], trained["supernet/segments.0.units.0.conv.weight"]
    assert not torch.equal(stem, learnt[: len(stem)]), "no weight of the supernet is kept"


def test_rungs_reach_from_the_narrowest_to_the_full_network():
    net = PRESETS.get("us_mobilenet_micro8").build()
    rungs = stage_rungs(net.space, 10)
    assert choice_at(rungs, [len(steps) - 1 for steps in rungs]) == net.space.largest
    narrowest = choice_at(rungs, [0] * len(rungs))
    assert madds_of(net, narrowest, 8) == net.cost(net.space.smallest, 8).madds
