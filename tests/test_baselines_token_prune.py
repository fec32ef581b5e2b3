"""Token pruning: which tokens are kept, how many, and that the others cost nothing."""

import pytest
import torch
from small_runs import CPU, digits, run_of, small_net, small_spec

from baselines.one_decision import OneDecisionPoint, Pinned, confidences, threshold_for
from baselines.token_prune import (
    TokenPruned,
    TokenPruneOptions,
    class_attention,
    kept_tokens,
    pruned,
    train_with_random_counts,
)
from bench.core.errors import UserError
from bench.core.spec import TrainSpec
from bench.evaluation.accuracy import evaluate
from bench.evaluation.proof import Unproven, prove
from bench.methods import method_of, trainable_copy
from bench.models import PRESETS
from bench.profilers.madds import executed_by
from bench.slicing.extract import extract
from bench.tasks.classification import Classification

MODEL = "ds_vit_micro8"
INNER, TOKENS = 64, 17


def network(place=1, keep=(0.25, 0.5)):
    return pruned(small_net(MODEL), TokenPruneOptions(keep=keep, place=place), 8).eval()


def first_images(count=40):
    return next(digits().validation.batches(count)).x


def point_at(net, share):
    """A point that takes every option, at a budget of a share between its cheapest and its dearest."""
    costs = [net.cost(option) for option in range(len(net.counts))]
    budget = costs[0] + share * (costs[-1] - costs[0])
    threshold = threshold_for(confidences(net, digits().validation, CPU), costs, budget)
    return OneDecisionPoint("point", {"extracted": net}, threshold, costs, [1] * len(costs)), budget


def test_importance_is_the_class_tokens_row_of_attention():
    torch.manual_seed(0)
    heads, head_dim, qkv = 3, 4, torch.randn(2, 6, 3 * 3 * 4)
    rows = torch.zeros(2, heads, 5)
    for image in range(2):
        packed = qkv[image].reshape(6, heads, 3, head_dim)
        for head in range(heads):
            query, key = packed[:, head, 0], packed[:, head, 1]
            rows[image, head] = (query @ key.T / head_dim**0.5).softmax(1)[0, 1:]
    assert torch.allclose(class_attention(qkv, heads, head_dim), rows.mean(1))


def test_the_class_token_is_always_kept_and_the_others_by_their_order():
    stream = torch.arange(5.0)[None, :, None].expand(2, 5, 3)
    order = torch.tensor([[3, 0, 1, 2], [1, 2, 3, 0]])
    assert kept_tokens(stream, order, 2)[:, :, 0].tolist() == [[0, 4, 1], [0, 2, 3]]
    assert kept_tokens(stream, order, 4) is stream


@torch.no_grad()
def test_with_all_tokens_it_is_the_plain_network():
    net, x = small_net(MODEL).eval(), first_images()
    mine = pruned(net, TokenPruneOptions(), 8).eval()
    assert torch.equal(mine(x, len(mine.counts) - 1), extract(net, net.space.largest)(x))


@torch.no_grad()
def test_the_tokens_that_are_dropped_have_no_say():
    """What the others become depends on the kept tokens alone."""
    net, x = network(), first_images(4)
    (stream, order), _ = net.begin(x)
    changed = stream.clone()
    changed.scatter_(1, order[:, net.counts[0] :, None].expand(-1, -1, 64) + 1, 100.0)
    assert torch.equal(net.finish((stream, order), 0), net.finish((changed, order), 0))
    assert not torch.equal(net.finish((stream, order), 1), net.finish((changed, order), 1))


@pytest.mark.parametrize("place", [0, 1, 3])
def test_executed_is_claimed_for_every_count(place):
    net, x = network(place), first_images(3)
    claims = [net.cost(option) for option in range(3)]
    assert claims == sorted(set(claims))
    for option, claim in enumerate(claims):
        assert executed_by(lambda option=option: Pinned(net, option)(x)) == 3 * claim


def test_the_cost_by_hand():
    """Four blocks of 64 channels, 4 heads of 16, MLP 128, 16 patches of 2x2; dropped to 4 patches in the second."""

    def attention(tokens):
        return 4 * tokens * 64 * INNER + 2 * tokens * tokens * INNER

    def mlp(tokens):
        return 2 * tokens * 64 * 128

    front = 16 * 4 * 64 + attention(17) + mlp(17) + attention(17) + INNER * TOKENS
    assert network().cost(0) == front + mlp(5) + 2 * (attention(5) + mlp(5)) + 640


def test_looking_at_attention_is_counted():
    supernet = small_net(MODEL)
    mine = pruned(supernet, TokenPruneOptions(), 8)
    full = supernet.cost(supernet.space.largest, 8).madds
    assert mine.cost(len(mine.counts) - 1) == full + INNER * TOKENS


@torch.no_grad()
def test_grouped_and_one_by_one_agree():
    point, _ = point_at(network(), 0.5)
    x = first_images()
    output, route = point(x)
    assert len(route.unique()) > 1
    alone = [point(x[row : row + 1]) for row in range(len(x))]
    assert torch.equal(route, torch.cat([each.route for each in alone]))
    assert (output - torch.cat([each.output for each in alone])).abs().max() <= 1e-5 * output.abs().max()


def test_a_budget_is_met_and_more_buys_more_on_the_images_it_was_fitted_on():
    net, means = network(), []
    for share in (0.1, 0.4, 0.7, 1.0):
        point, budget = point_at(net, share)
        means.append(evaluate(point, digits().validation, Classification(), CPU).madds.mean())
        assert 0.98 * budget <= means[-1] <= budget
    assert means == sorted(means)


def test_routes_are_no_matter_of_luck():
    """Trap: noise at evaluation."""
    point, _ = point_at(network(), 0.5)
    torch.manual_seed(1)
    first = point(first_images())
    torch.manual_seed(2)
    again = point(first_images())
    assert torch.equal(first.route, again.route)
    assert torch.equal(first.output, again.output)


def test_a_claim_without_the_look_at_attention_is_refused():
    """Trap: fused attention shows no weights, so reading them costs extra; who forgets it is told."""
    point, _ = point_at(network(), 0.5)
    point.costs = point.costs - INNER * TOKENS
    with pytest.raises(Unproven, match="claims"):
        prove(point, digits().validation, CPU)


def test_every_count_is_trained(tmp_path):
    """A step's count hangs on the seed and the step alone; over a few epochs all are met."""
    drawn = []

    class Watched(TokenPruned):
        def forward(self, x, option):
            drawn.append(option)
            return super().forward(x, option)

    supernet, train = small_net(MODEL), TrainSpec(epochs=10, batch_size=64)
    network = Watched(trainable_copy(extract(supernet, supernet.space.largest)), 1, (4, 8, 16))
    spec = small_spec("token_prune", train=train)
    train_with_random_counts(network, run_of(spec, tmp_path))
    assert len(drawn) == 20
    assert set(drawn) == {0, 1, 2}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"keep": (0.0,)}, "keep of token_prune must be above 0, not 0.0"),
        ({"keep": ()}, "keep of token_prune must be a list of 1 or more"),
        ({"budgets": ()}, "budgets of token_prune must be a list of 1 or more"),
        ({"budgets": (1.5,)}, "budgets of token_prune must be at most 1, not 1.5"),
    ],
)
def test_impossible_settings_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        small_spec("token_prune", options=options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"place": 4}, "no block 4: this network has blocks 0 to 3"), ({"budgets": [0.3]}, "as little as budget 0.3")],
)
def test_what_the_network_cannot_do_is_refused_before_any_work(options, sentence):
    with pytest.raises(UserError, match=sentence):
        method_of("token_prune").check(small_spec("token_prune", options=options), PRESETS.get(MODEL).build(), 8)


def test_counts_are_rounded_up_and_end_in_all():
    assert TokenPruneOptions(keep=(0.5, 0.1, 0.5)).counts(196) == (20, 98, 196)
