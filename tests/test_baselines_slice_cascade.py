"""A cascade of slices: each image gets the answer of the slice at which it stopped, and all that ran is paid for."""

import pytest
import torch
from small_runs import CPU, FirstImages, digits, small_net
from torch import nn

from baselines.exit_thresholds import certainty
from baselines.slice_cascade import BlindCascade, CascadePoint, Chain, fitted_thresholds
from bench.evaluation.proof import prove
from bench.profilers.madds import executed_by
from bench.slicing.extract import extract, parameters_of, parameters_used
from bench.training.calibrate import calibrate

SHARED = ["ds_mobilenet_micro8", "ds_mobilenet_pp_micro8", "ds_resnet_micro8", "ds_resnet_bn_micro8", "ds_vit_micro8"]
WHOLE = ["us_mobilenet_micro8", "s_mobilenet_micro8", "nested_vit_micro8"]
COUNT = 40


def chain_of(model, places=(0, 2)):
    net = small_net(model)
    space = net.space
    choices = [space.routed([p] * len(space.decisions)) if space.decisions else space.uniform(p) for p in places]
    calibrate(net, [choice for choice in choices if space.prefix_statistics], digits().calibration, CPU)
    return Chain(net, choices, 8)


def split():
    return FirstImages(digits().validation, COUNT)


def images():
    return split().batch.x


def middle(chain, measure="probability"):
    """Thresholds by which about half of the images that arrive stop at each slice."""
    half = [(cheap + dear) / 2 / chain.alone for cheap, dear in zip(chain.costs, chain.costs[1:], strict=False)]
    return fitted_thresholds(chain, half[:1], split(), CPU, measure)[0]


@pytest.mark.parametrize("model", [*SHARED, *WHOLE])
@torch.no_grad()
def test_each_image_gets_the_answer_of_the_slice_at_which_it_stopped(model):
    chain = chain_of(model)
    point = CascadePoint("c", chain, middle(chain))
    prediction = point(images())
    places = prediction.route[:, 0]
    assert set(places.tolist()) == {0, 1}
    answers = [chain.net(images(), choice) for choice in chain.choices]
    expected = torch.stack(answers)[places, torch.arange(COUNT)]
    torch.testing.assert_close(prediction.output, expected, rtol=1e-4, atol=1e-4)
    largest = answers[0].softmax(1).amax(1)
    assert largest[places == 0].min() >= largest[places == 1].max(), "those that go on are the least sure"
    for form in point.executables().values():
        torch.testing.assert_close(form(images()), prediction.output, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("model", [*SHARED, *WHOLE])
def test_all_that_ran_is_claimed_and_the_claim_is_proven(model):
    chain = chain_of(model)
    madds = [chain.net.cost(choice, 8).madds for choice in chain.choices]
    assert chain.costs == [madds[0], sum(madds) - chain.front_madds]
    assert chain.alone == madds[1]
    assert (chain.front_madds > 0) == (model in SHARED)
    if chain.front_madds:
        alone = executed_by(lambda: chain.net.segments[0].through(images(), chain.choices[0]))
        assert chain.front_madds * COUNT == alone, "in front of the first gate, run once"
    point = CascadePoint("c", chain, middle(chain))
    proof = prove(point, split(), CPU)
    assert proof["networks"].keys() == {"0", "1"}
    assert proof["forms"] == ["extracted", "view"]
    assert point.front_madds == chain.front_madds


@pytest.mark.parametrize("model", ["ds_mobilenet_micro8", "us_mobilenet_micro8"])
def test_a_chain_of_three(model):
    chain = chain_of(model, (0, 1, 3))
    point = CascadePoint("c", chain, middle(chain))
    places = point(images()).route[:, 0]
    assert set(places.tolist()) == {0, 1, 2}
    assert point.madds(places[:, None]).tolist() == [chain.costs[place] for place in places.tolist()]
    assert prove(point, split(), CPU)["groups"] >= 3


@pytest.mark.parametrize("measure", ["probability", "entropy"])
@pytest.mark.parametrize("places", [(0, 3), (0, 1, 3)])
@torch.no_grad()
def test_thresholds_keep_budgets_on_validation_images(measure, places):
    chain = chain_of("ds_mobilenet_micro8", places)
    lowest = chain.costs[0] / chain.alone
    budgets = [lowest + share * (1 - lowest) for share in (0.3, 0.6, 0.9)]
    for budget, thresholds in zip(budgets, fitted_thresholds(chain, budgets, split(), CPU, measure), strict=True):
        point = CascadePoint("c", chain, thresholds, measure)
        mean = point.madds(point(images()).route).double().mean() / chain.alone
        assert budget - 0.06 < mean <= budget, "as much as the images allow, and no more"


def test_the_entropy_orders_images_and_does_not_saturate():
    logits = torch.randn(200, 10, generator=torch.Generator().manual_seed(0)) * 3
    entropy = torch.distributions.Categorical(logits=logits.double()).entropy()
    assert torch.equal(certainty(logits).argsort(), entropy.argsort(descending=True))
    sure = certainty(torch.tensor([[20.0, 0.0], [30.0, 0.0], [34.0, 0.0]]))
    assert (sure.diff() > 1).all(), "float32 probabilities would all be one"


@torch.no_grad()
def test_the_control_sends_as_many_images_on_at_the_same_cost_but_not_those_that_need_it():
    chain = chain_of("ds_mobilenet_micro8", (0, 1, 3))
    point = CascadePoint("c", chain, middle(chain))
    batches = [batch.x for batch in split().batches(15)]
    blind = BlindCascade(point, b"key").on(batches)
    places, others = (torch.cat([one(x).route[:, 0] for x in batches]) for one in (point, blind))
    assert not torch.equal(places, others)
    assert places.bincount().tolist() == others.bincount().tolist()
    assert point.madds(places[:, None]).sum() == blind.madds(others[:, None]).sum()
    assert torch.equal(torch.cat([blind(image[None]).route[:, 0] for image in images()[:10]]), others[:10])
    answers = torch.stack([chain.net(images(), choice) for choice in chain.choices])
    torch.testing.assert_close(blind(images()).output, answers[others, torch.arange(COUNT)], rtol=1e-4, atol=1e-4)
    assert prove(blind, split(), CPU)["networks"].keys() == {"0", "1", "2"}
    with pytest.raises(RuntimeError, match="must be fitted"):
        BlindCascade(point, b"key")(images())


@pytest.mark.parametrize("model", ["ds_mobilenet_micro8", "s_mobilenet_micro8", "ds_vit_micro8"])
def test_parameters_that_slices_share_are_counted_once(model):
    chain = chain_of(model)
    narrow, wide = (parameters_of(extract(chain.net, choice)) for choice in chain.choices)
    both = parameters_used(chain.net, chain.choices)
    assert parameters_used(chain.net, chain.choices[:1]) == narrow
    point = CascadePoint("c", chain, [0.0])
    assert point.params_active(torch.tensor([[0], [1]])).tolist() == [narrow, both]
    assert point.params_stored == parameters_of(chain.net) >= both
    if model != "s_mobilenet_micro8":
        assert both == wide, "a slice is the leading part of a wider one"
    else:
        norms = [m for m in extract(chain.net, chain.choices[0]).modules() if isinstance(m, nn.BatchNorm2d)]
        assert both == wide + sum(map(parameters_of, norms)), "each width has batch norms of its own"
