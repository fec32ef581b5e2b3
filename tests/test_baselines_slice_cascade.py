"""A cascade of slices: each image gets the answer of the slice at which it stopped, and all that ran is paid for."""

import pytest
import torch
from small_runs import CPU, DATA, SHORT, Trained, digits, run_of, small_net, small_spec, trained_points
from torch import nn

from baselines.controls import BlindCascade
from baselines.exit_thresholds import certainty
from baselines.slice_cascade import CascadePoint, Chain, fitted_thresholds
from bench.core.errors import UserError
from bench.core.spec import RunSpec
from bench.evaluation.proof import prove
from bench.methods import completed, method_of
from bench.profilers.madds import executed_by
from bench.runs.check import check
from bench.runs.estimate import FirstImages
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
    return Chain(net, dict(zip(places, choices, strict=True)), 8)


def split():
    return FirstImages(digits().validation, COUNT)


def images():
    return split().batch.x


def middle(chain, measure="probability"):
    """Thresholds by which about half of the images that arrive stop at each slice."""
    half = [
        (cheap + dear) / 2 / chain.span.costliest for cheap, dear in zip(chain.costs, chain.costs[1:], strict=False)
    ]
    return fitted_thresholds(chain, half[:1], split(), CPU, measure)[0]


@pytest.mark.parametrize("model", [*SHARED, *WHOLE])
@torch.no_grad()
def test_each_image_gets_the_answer_of_the_slice_at_which_it_stopped(model):
    chain = chain_of(model)
    point = CascadePoint("c", chain, middle(chain))
    prediction = point(images())
    places = point.places(prediction.route)
    assert set(places.tolist()) == {0, 1}
    assert set(prediction.route[:, 0].tolist()) == {0, 2}, "routes name sub-networks"
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
    assert chain.span == tuple(madds)
    assert (chain.front_madds > 0) == (model in SHARED)
    if chain.front_madds:
        alone = executed_by(lambda: chain.net.segments[0].through(images(), chain.choices[0]))
        assert chain.front_madds * COUNT == alone, "in front of the first gate, run once"
    point = CascadePoint("c", chain, middle(chain))
    proof = prove(point, split(), CPU)
    assert proof["networks"].keys() == {"0", "2"}
    assert proof["forms"] == ["extracted", "view"]
    assert point.front_madds == chain.front_madds


@pytest.mark.parametrize("model", ["ds_mobilenet_micro8", "us_mobilenet_micro8"])
def test_a_chain_of_three(model):
    chain = chain_of(model, (0, 1, 3))
    point = CascadePoint("c", chain, middle(chain))
    route = point(images()).route
    assert set(route[:, 0].tolist()) == {0, 1, 3}
    assert point.madds(route).tolist() == [chain.costs[place] for place in point.places(route).tolist()]
    assert prove(point, split(), CPU)["groups"] >= 3


@pytest.mark.parametrize("measure", ["probability", "entropy"])
@pytest.mark.parametrize("places", [(0, 3), (0, 1, 3)])
@torch.no_grad()
def test_thresholds_keep_budgets_on_validation_images(measure, places):
    chain = chain_of("ds_mobilenet_micro8", places)
    lowest = chain.costs[0] / chain.span.costliest
    budgets = [lowest + share * (1 - lowest) for share in (0.3, 0.6, 0.9)]
    for budget, thresholds in zip(budgets, fitted_thresholds(chain, budgets, split(), CPU, measure), strict=True):
        point = CascadePoint("c", chain, thresholds, measure)
        mean = point.madds(point(images()).route).double().mean() / chain.span.costliest
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
    routes = [torch.cat([one(x).route for x in batches]) for one in (point, blind)]
    assert not torch.equal(*routes)
    assert routes[0].flatten().bincount().tolist() == routes[1].flatten().bincount().tolist()
    assert point.madds(routes[0]).sum() == blind.madds(routes[1]).sum()
    assert torch.equal(torch.cat([blind(image[None]).route for image in images()[:10]]), routes[1][:10])
    others = blind.places(routes[1])
    answers = torch.stack([chain.net(images(), choice) for choice in chain.choices])
    torch.testing.assert_close(blind(images()).output, answers[others, torch.arange(COUNT)], rtol=1e-4, atol=1e-4)
    assert prove(blind, split(), CPU)["networks"].keys() == {"0", "1", "3"}
    with pytest.raises(RuntimeError, match="must be fitted"):
        BlindCascade(point, b"key")(images())


@pytest.mark.parametrize("model", ["ds_mobilenet_micro8", "s_mobilenet_micro8", "ds_vit_micro8"])
def test_parameters_that_slices_share_are_counted_once(model):
    chain = chain_of(model)
    narrow, wide = (parameters_of(extract(chain.net, choice)) for choice in chain.choices)
    both = parameters_used(chain.net, chain.choices)
    assert parameters_used(chain.net, chain.choices[:1]) == narrow
    point = CascadePoint("c", chain, [0.0])
    assert point.params_active(torch.tensor([[0], [2]])).tolist() == [narrow, both]
    assert point.params_stored == parameters_of(chain.net) >= both
    if model != "s_mobilenet_micro8":
        assert both == wide, "a slice is the leading part of a wider one"
    else:
        norms = [m for m in extract(chain.net, chain.choices[0]).modules() if isinstance(m, nn.BatchNorm2d)]
        assert both == wide + sum(map(parameters_of, norms)), "each width has batch norms of its own"


# The method.


PARENTS = [
    ("ds_net", "ds_mobilenet_micro8", {}),
    ("ds_net_pp", "ds_vit_micro8", {}),
    ("us_net", "us_mobilenet_micro8", {"widths": [1.0, 0.25, 0.5]}),
    ("s_net", "s_mobilenet_micro8", {}),
    ("nested_vit", "nested_vit_micro8", {}),
    ("us_net", "us_resnet_basic_micro8", {"widths": [1.0, 0.25, 0.5]}),
]


@pytest.fixture(scope="module", params=PARENTS, ids=lambda parent: "-".join(parent[:2]))
def parent(request, tmp_path_factory):
    method, model, options = request.param
    directory = tmp_path_factory.mktemp(method)
    spec = small_spec(method, model=model, options={**SHORT.get(method, {}), **options})
    trained_points(spec, directory)
    return Trained(spec, directory)


def cascade_on(parent, directory, **options):
    spec = small_spec("slice_cascade", parent, model=parent.spec.model, options=options)
    return spec, trained_points(spec, directory, parent)


def test_a_cascade_of_every_supernet_with_its_controls(parent, tmp_path):
    """The front is shared where the family shares one; the control of each point has its name, proportions and cost."""
    spec, points = cascade_on(parent, tmp_path, budgets=[0.9])
    (point,) = points
    assert (point.front_madds > 0) == (parent.spec.model not in WHOLE)
    assert prove(point, split(), CPU)["forms"] == ["extracted", "view"]
    child = Trained(spec, tmp_path, parent)
    (random,) = trained_points(small_spec("random_gate", child, model=spec.model), tmp_path / "random", child)
    fixed = trained_points(small_spec("fixed_choice", child, model=spec.model), tmp_path / "fixed", child)
    assert random.name == point.name == f"cascade0-{len(fixed) - 1}-budget0.9"
    batches = [batch.x for batch in split().batches(COUNT)]
    judged = random.on(batches)
    with torch.no_grad():
        routes = [one(batches[0]).route for one in (point, judged)]
    assert routes[0].sort(0).values.tolist() == routes[1].sort(0).values.tolist()
    assert [one.route for one in fixed] == [(number,) for number in range(len(fixed))]
    costs = [one.claimed for one in fixed]
    assert costs == sorted(costs)
    assert list(point.chain.span) == [costs[0], costs[-1]]
    again = method_of("slice_cascade").points(run_of(spec, tmp_path, parent))
    with torch.no_grad():
        assert torch.equal(again[0](batches[0]).output, point(batches[0]).output)


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory):
    directory = tmp_path_factory.mktemp("ds_net")
    spec = small_spec("ds_net")
    trained_points(spec, directory)
    return Trained(spec, directory)


def test_chains_and_budgets_make_the_points(dynamic, tmp_path):
    """A chain has a point for each budget that it can spend: choices 0 and 1 cost 0.5 and 1 of choice 1."""
    _, points = cascade_on(dynamic, tmp_path, chains=[[0, 1], [0, 1, 3]], budgets=[0.8, 0.4], measure="entropy")
    assert [point.name for point in points] == [
        "cascade0-1-budget0.8",
        "cascade0-1-3-budget0.8",
        "cascade0-1-3-budget0.4",
    ]
    assert {point.measure for point in points} == {"entropy"}
    assert points[1].routing_space == ([0, 1, 3],)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"chains": [[0]]}, "must list two or three sub-networks"),
        ({"chains": [[3, 0]]}, "slimmest first"),
        ({"chains": [[0, 1, 2, 3]]}, "must list two or three"),
        ({"chains": [[0, 4]]}, "names a sub-network that is none of 0 to 3"),
        ({"chains": [[0, 1]], "budgets": [0.4]}, "budget 0.4 is out of reach: .* above the cheapest, 0.505"),
        ({"budgets": [0.5, 0.5]}, "budgets of slice_cascade must be a list that names each once"),
        ({"budgets": [1.0]}, "budget 1 is out of reach"),
        ({"budgets": []}, "budgets of slice_cascade must be a list of 1 or more"),
    ],
)
def test_what_no_chain_can_be_is_refused_before_anything_runs(options, sentence):
    run = completed(RunSpec("ds_net", "ds_mobilenet_micro8", data=DATA))
    with pytest.raises(UserError, match=sentence) as caught:
        check([run, RunSpec("slice_cascade", run.model, data=DATA, options=options, init_from=run.run_id)], None)
    assert "\n" not in str(caught.value)


def test_a_run_that_leaves_no_supernet_has_no_cascade():
    run = completed(RunSpec("uniform", "ds_mobilenet_micro8", data=DATA))
    with pytest.raises(UserError, match="a run of uniform, which leaves no supernet to make a cascade of"):
        check([run, RunSpec("slice_cascade", run.model, data=DATA, init_from=run.run_id)], None)
