"""Where runs start: another run's network with a new head, pretrained weights, an order; or one sentence."""

from dataclasses import replace

import pytest
import timm
import torch
from small_runs import DATA, TRAIN, Trained, checkpoint_bytes, digits, run_of, small_spec, trained_points

from bench.core.errors import UserError
from bench.core.spec import RunSpec
from bench.methods import build_model, build_network, completed, fresh_model, method_of, start_of
from bench.models.transfer import head_of
from bench.models.weights import Weights, given, keep
from bench.training import checkpoint

RESNET = "ds_resnet_micro8"
FEWER = replace(digits(), classes=digits().classes[:7])


def train(name, directory, parent=None, data=None, **changes):
    """A run of two steps that starts from another, whatever its method."""
    spec = small_spec(name, **changes)
    if parent is not None:
        spec = replace(spec, init_from=parent.spec.run_id)
    trained_points(spec, directory, parent, data=data)
    return Trained(spec, directory)


def state(trained, name="final", role="supernet"):
    tensors, _ = checkpoint.load(trained.directory / "checkpoints" / f"{name}.safetensors", trained.spec.run_id)
    return {key.removeprefix(f"{role}/"): value for key, value in tensors.items() if key.startswith(f"{role}/")}


@pytest.fixture(scope="module")
def supernet(tmp_path_factory):
    return train("ds_net", tmp_path_factory.mktemp("supernet"), model=RESNET)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return train("uniform", tmp_path_factory.mktemp("alone"), model=RESNET)


def child(name, parent, directory, data=None, **changes):
    spec = replace(small_spec(name, model=RESNET, **changes), init_from=parent.spec.run_id)
    return run_of(spec, directory, parent, data=data)


@pytest.mark.parametrize("name", ["ds_net", "uniform", "pruning", "sliced_order"])
@torch.no_grad()
def test_a_supernet_starts_where_another_ended(name, supernet, tmp_path):
    run = child(name, supernet, tmp_path, seed=3)
    net, trained = build_model(run), state(supernet)
    assert all(torch.equal(value, trained[key]) for key, value in net.state_dict().items())
    assert start_of(run) == {"from": supernet.spec.run_id, "stayed": [], "unused": []}
    plain = build_network(net, net.space.uniform(1), run)
    x = digits().validation.batches(8).__iter__().__next__().x
    torch.testing.assert_close(plain.eval()(x), net.eval()(x, net.space.uniform(1)))


def test_another_number_of_classes_gets_a_new_head_and_says_so(supernet, tmp_path):
    run = child("ds_net", supernet, tmp_path, FEWER)
    net, fresh, trained = build_model(run), fresh_model(run), state(supernet)
    head = [key for key in net.state_dict() if key.startswith(head_of(net))]
    assert {net.state_dict()[key].shape[0] for key in head} == {7}
    for key, value in net.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[key] if key in head else trained[key])
    told = {"from": supernet.spec.run_id, "stayed": sorted(head), "unused": sorted(head)}
    assert start_of(run) == told


def test_a_run_trains_on_from_its_parent_to_equal_bytes(supernet, tmp_path):
    first = train("ds_net", tmp_path / "a", supernet, model=RESNET)
    second = train("ds_net", tmp_path / "b", supernet, model=RESNET)
    scratch = train("ds_net", tmp_path / "c", model=RESNET, seed=5)
    assert checkpoint_bytes(first.directory) == checkpoint_bytes(second.directory)
    key = "segments.0.units.0.conv.conv.weight"
    moved = (state(first)[key] - state(supernet)[key]).abs().max()
    assert 0 < moved < (state(first)[key] - state(scratch)[key]).abs().max()


def test_networks_trained_alone_start_from_their_like(alone, tmp_path):
    run = child("uniform", alone, tmp_path, FEWER)
    net = build_model(run)
    for index in (0, 3):
        plain = build_network(net, net.space.uniform(index), run)
        trained = state(alone, f"uniform{index}", "network")
        own = plain.state_dict()
        stayed = [key for key, value in own.items() if not torch.equal(value, trained[key][: len(value)])]
        assert stayed
        assert all(key.startswith(head_of(plain)) for key in stayed)
    with pytest.raises(UserError, match=f"{alone.spec.run_id} left no network uniform1 to start from"):
        build_network(net, net.space.uniform(1), run)
    assert start_of(run)["from"] == alone.spec.run_id


def test_a_parent_of_the_wrong_kind(alone, supernet, tmp_path):
    cut = Trained(small_spec("pruning", model=RESNET), tmp_path)
    control = Trained(replace(small_spec("fixed_choice", supernet, model=RESNET)), tmp_path)
    for name, parent, says in (
        ("ds_net", alone, "uniform trains each network alone, and ds_net needs a supernet"),
        ("ds_net", cut, "a run of pruning leaves no network to train on"),
        ("uniform", control, "a run of fixed_choice leaves no network to train on"),
    ):
        run = child(name, parent, tmp_path)
        with pytest.raises(UserError, match=says):
            build_model(run)


def test_a_parent_of_another_shape(supernet, tmp_path):
    spec = replace(small_spec("ds_net", model="ds_resnet_micro32"), init_from=supernet.spec.run_id)
    with pytest.raises(UserError, match=rf"cannot start from {supernet.spec.run_id}: segments.* needs the shape"):
        build_model(run_of(spec, tmp_path, supernet))


def test_a_control_of_a_run_that_started_elsewhere(supernet, tmp_path):
    """It works on its parent's checkpoint and never asks for its grandparent's."""
    parent = train("ds_net", tmp_path / "a", supernet, model=RESNET)
    spec = small_spec("fixed_choice", parent, model=RESNET)
    assert trained_points(spec, tmp_path / "b", parent)
    assert start_of(run_of(spec, tmp_path / "b", parent)) == {}


# Pretrained weights.


def vit(tmp_path, classes=10):
    torch.manual_seed(0)
    theirs = timm.models.VisionTransformer(
        img_size=8, patch_size=2, in_chans=1, embed_dim=64, depth=4, num_heads=4, mlp_ratio=2, num_classes=classes
    ).eval()
    weights = Weights(f"timm:made_up{classes}", theirs.state_dict())
    keep(weights, tmp_path / "weights")
    return theirs, weights.name


def started(tmp_path, name, method, **options):
    spec = completed(RunSpec(method, "ds_vit_micro8", data=DATA, train=TRAIN, weights=name, options=options))
    return run_of(spec, tmp_path / method, weights=tmp_path / "weights")


def test_the_start_says_that_the_averaged_weights_of_a_file_were_taken(tmp_path):
    theirs, name = vit(tmp_path)
    raw = {key: torch.zeros_like(value) for key, value in theirs.state_dict().items()}
    torch.save({"state_dict": raw, "state_dict_ema": theirs.state_dict()}, tmp_path / "train.pth")
    averaged = given(str(tmp_path / "train.pth"))
    keep(averaged, tmp_path / "weights")
    start = start_of(started(tmp_path, averaged.name, "uniform"))
    origin = {"taken": "state_dict_ema", "beside": "state_dict"}
    assert start == {"from": averaged.name, "stayed": [], "unused": [], "origin": origin}
    assert "origin" not in start_of(started(tmp_path, name, "uniform"))


@torch.no_grad()
def test_training_starts_from_pretrained_weights(tmp_path):
    theirs, name = vit(tmp_path)
    run = started(tmp_path, name, "uniform")
    net, x = build_model(run).eval(), next(digits().validation.batches(8)).x
    torch.testing.assert_close(net(x, net.space.largest), theirs(x), rtol=1e-5, atol=1e-5)
    assert start_of(run) == {"from": name, "stayed": [], "unused": []}
    other = started(tmp_path, vit(tmp_path, 7)[1], "uniform")
    assert start_of(other)["unused"] == ["head.bias", "head.weight"]


@pytest.mark.parametrize("order", ["l1", "random"])
@torch.no_grad()
def test_channels_are_ordered_before_training(order, tmp_path, monkeypatch):
    from bench.methods import ds_net as dynamic_slimmable

    theirs, name = vit(tmp_path)
    run = started(tmp_path, name, "ds_net_pp", channel_order=order)
    seen = []

    def stop(net, *args):
        seen.append(net)
        raise KeyboardInterrupt

    monkeypatch.setattr(dynamic_slimmable, "train_supernet", stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            method_of("ds_net_pp").train(run)
    x, plain = next(digits().validation.batches(8)).x, build_model(run).eval()
    net, again = (other.eval() for other in seen)
    torch.testing.assert_close(net(x, net.space.largest), theirs(x), rtol=1e-5, atol=1e-4)
    assert not torch.allclose(net(x, net.space.smallest), plain(x, plain.space.smallest), rtol=1e-3)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in net.state_dict().items())


def test_weights_that_are_nowhere(tmp_path):
    run = started(tmp_path, f"sha256:{'1' * 64}", "uniform")
    with pytest.raises(UserError, match=r"cannot start from sha256:1111.*give their file with --weights"):
        build_model(run)
    with pytest.raises(UserError, match="kept in a results directory, and there is none"):
        build_model(replace(run, weights=None))
