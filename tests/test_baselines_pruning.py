"""Pruning removes for real: smaller tensors, fewer executed multiply-adds, outputs as if the channels were closed."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import (
    Interrupted,
    checkpoint_bytes,
    interrupt_after,
    small_net,
    small_spec,
    state_of,
    trained_points,
)
from torch import Tensor, nn
from voc_folder import make_set

from baselines.pruning import Pruning
from baselines.pruning_budget import TOLERANCE, Pruned, check_budget, granularity, prune_to_budget
from baselines.pruning_criteria import CRITERIA
from baselines.pruning_surgery import Surgeon, rebuild
from bench.core.errors import UserError
from bench.core.spec import DataSpec, TrainSpec
from bench.data import load
from bench.models import PRESETS
from bench.profilers.madds import executed_madds, fvcore_madds
from bench.slicing.extract import extract

MICRO = ("ds_mobilenet_micro8", "ds_resnet_micro8", "ds_resnet_bn_micro8", "ds_resnet_basic_micro8", "ds_vit_micro8")
# BN, GN, BN, BN, LN
IMAGE = torch.zeros(1, 1, 8, 8)
L1 = CRITERIA["l1"]


def base(model: str = "ds_mobilenet_micro8") -> nn.Module:
    """The widest plain network of a micro preset, with statistics and scales away from their initial values."""
    net = small_net(model)
    plain = extract(net, net.space.uniform_choices[-1]).eval()
    generator = torch.Generator().manual_seed(1)
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(0.1 * torch.randn(len(module.running_mean), generator=generator))
            module.running_var.copy_(0.5 + torch.rand(len(module.running_var), generator=generator))
    return plain


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def by_hand(network: nn.Module, image: Tensor) -> int:
    """Multiply-adds of one image from the shapes that pass convolutions and linear layers (no attention)."""
    total = 0

    def add(layer: nn.Module, arrived: tuple[Tensor, ...], left: Tensor) -> None:
        nonlocal total
        total += left.numel() * layer.weight[0].numel()  # type: ignore[index, operator]

    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(add) for layer in layers]
    network(image)
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize(("model", "budget"), [*((model, 0.5) for model in MICRO), ("ds_mobilenet_micro8", 0.25)])
def test_removal_is_real_and_on_budget(model: str, budget: float):
    network = base(model)
    pruned = prune_to_budget(network, IMAGE, budget, L1)
    assert pruned.full_madds == executed_madds(network, IMAGE)
    assert abs(pruned.madds - budget * pruned.full_madds) <= TOLERANCE * budget * pruned.full_madds
    assert pruned.madds == executed_madds(pruned.network, IMAGE) == fvcore_madds(pruned.network, IMAGE)
    if "vit" not in model:
        assert pruned.madds == by_hand(pruned.network, IMAGE)
    fewer = sum(p.numel() for p in pruned.network.parameters()), sum(p.numel() for p in network.parameters())
    assert fewer[0] < 0.8 * fewer[1]
    assert pruned.network(images()).shape == (4, 10)


def closed(network: nn.Module, pruned: Pruned, names: set[str]) -> nn.Module:
    """A copy of the full network in which removed units are zeroed wherever they are produced or normalised: a mask."""
    masked = copy.deepcopy(network)
    with torch.no_grad():
        for coupling in Surgeon(network, IMAGE).couplings:
            if coupling.name not in names:
                continue
            kept = torch.tensor(pruned.kept[coupling.name])
            for layer in coupling.producers + coupling.norms:
                gone = ~torch.isin(layer.unit_of, kept)
                target = masked.get_submodule(layer.path)
                for parameter in target.parameters():
                    parameter[gone] = 0
    return masked


@pytest.mark.parametrize("model", MICRO)
def test_a_mask_gives_the_outputs_but_none_of_the_saving(model: str):
    network = base(model)
    surgeon = Surgeon(network, IMAGE)
    # A layer norm sees how many channels there are, so there the width of the stream must stay as it is.
    cut = {c.name for c in surgeon.couplings if not any(isinstance(norm.module, nn.LayerNorm) for norm in c.norms)}
    assert len(cut) >= 8
    kept = {c.name: tuple(range(0, c.units, 2 if c.name in cut else 1)) for c in surgeon.couplings}
    small = surgeon.operate(kept).eval()
    masked = closed(network, Pruned(small, 0, 0, kept), cut)
    torch.testing.assert_close(small(images()), masked(images()), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(small(images()), network(images()), rtol=1e-2)
    full = executed_madds(network, IMAGE)
    assert executed_madds(masked, IMAGE) == full
    assert executed_madds(small, IMAGE) < 0.6 * full


@pytest.mark.parametrize("model", MICRO)
def test_torch_pruning_cuts_what_the_search_counted(model: str):
    network = base(model)
    surgeon = Surgeon(network, IMAGE)
    widths = [max(1, coupling.units // 3) for coupling in surgeon.couplings]
    hollow = surgeon.hollow(widths)
    small = surgeon.operate({c.name: range(width) for c, width in zip(surgeon.couplings, widths, strict=True)})
    assert {key: tensor.shape for key, tensor in small.state_dict().items()} == surgeon.shapes(widths)
    assert repr(hollow) == repr(small)
    assert executed_madds(hollow, IMAGE) == executed_madds(small.eval(), IMAGE)


@pytest.mark.parametrize("criterion", ["random", "l1"])
def test_equal_arguments_give_equal_masks_and_weights(criterion: str):
    network, chosen = base(), CRITERIA[criterion]
    first = prune_to_budget(network, IMAGE, 0.5, chosen, seed=3)
    torch.rand(5)  # whatever was drawn in between
    state = torch.get_rng_state()
    second = prune_to_budget(network, IMAGE, 0.5, chosen, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    assert first.kept == second.kept
    assert all(torch.equal(a, b) for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True))
    assert (prune_to_budget(network, IMAGE, 0.5, chosen, seed=4).kept != first.kept) == (criterion == "random")


def test_the_network_stays_as_it_is():
    network = base().train()
    before = state_of(network)
    prune_to_budget(network, IMAGE, 0.5, L1)
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in before.items())
    assert all(module.training for module in network.modules())
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("model", MICRO)
def test_a_saved_network_is_rebuilt_from_tensors_alone(model: str, tmp_path: Path):
    network = base(model)
    surgeon = Surgeon(network, IMAGE)
    pruned = surgeon.operate({c.name: range(0, c.units, 2) for c in surgeon.couplings}).eval()
    save_file({k: v.contiguous() for k, v in pruned.state_dict().items()}, tmp_path / "pruned.safetensors")
    rebuilt = rebuild(base(model), load_file(tmp_path / "pruned.safetensors")).eval()
    assert torch.equal(rebuilt(images()), pruned(images()))
    assert repr(rebuilt) == repr(pruned)
    assert all(p.requires_grad for p in rebuilt.parameters())


def test_rebuilding_from_another_network_is_an_error():
    with pytest.raises(UserError, match="does not fit its base network"):
        rebuild(base("us_mobilenet_micro8"), base("ds_resnet_micro8").state_dict())


def test_a_pruned_network_can_be_pruned_again_against_the_same_full_count():
    network = base()
    once = prune_to_budget(network, IMAGE, 0.6, L1)
    twice = prune_to_budget(once.network, IMAGE, 0.3, L1, full_madds=once.full_madds)
    assert twice.full_madds == once.full_madds == executed_madds(network, IMAGE)
    assert abs(twice.madds / once.full_madds - 0.3) <= TOLERANCE * 0.3


def test_a_whole_budget_keeps_everything():
    network = base()
    pruned = prune_to_budget(network, IMAGE, 1.0, L1)
    assert pruned.madds == pruned.full_madds
    assert torch.equal(pruned.network.eval()(images()), network(images()))


def test_steps_are_those_of_hardware_but_fine_enough():
    assert [granularity(units) for units in (3, 12, 16, 32, 63, 64, 1024)] == [1, 1, 2, 4, 4, 8, 8]
    pruned = prune_to_budget(base(), IMAGE, 0.5, L1)
    assert all(len(kept) % 8 == 0 for name, kept in pruned.kept.items() if len(kept) > 64)


@pytest.mark.parametrize("budget", [0, -0.5, 1.5])
def test_a_budget_is_a_fraction(budget: float):
    with pytest.raises(UserError, match=r"in \(0, 1\]"):
        prune_to_budget(base(), IMAGE, budget, L1)
    with pytest.raises(UserError, match=r"budgets of pruning must be (above 0|at most 1), not "):
        small_spec("pruning", options={"budgets": (0.5, budget)})


def test_a_budget_below_the_smallest_network_is_an_error():
    with pytest.raises(
        UserError, match=r"budget 0\.001 is out of reach: the nearest network .* of the [\d,]+ multiply"
    ):
        prune_to_budget(base(), IMAGE, 0.001, L1)
    with pytest.raises(UserError, match=r"budget 0\.001 is out of reach"):
        check_budget(base(), IMAGE, 0.001, CRITERIA["taylor"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budgets": ()}, "budgets of pruning must be a list of 1 or more"),
        ({"budgets": (0.5, 0.5)}, "names each once"),
        ({"iterative_steps": 0}, "iterative_steps of pruning must be at least 1"),
        ({"finetune_epochs": -1}, "finetune_epochs of pruning must be at least 0"),
        ({"finetune_lr": 0.0}, "finetune_lr of pruning must be above 0"),
        ({"criterion": "l3"}, "criterion of pruning must be one of random, l1"),
        ({"budget": 0.5}, "did you mean 'budgets'"),
    ],
)
def test_bad_options_are_told_in_one_sentence(options: dict, message: str):
    with pytest.raises(UserError, match=message):
        small_spec("pruning", options=options)


@pytest.mark.parametrize(
    ("options", "model", "message"),
    [
        ({"budgets": [0.5, 0.001]}, "ds_mobilenet_micro8", "budget 0.001 is out of reach"),
        ({"criterion": "slimming"}, "ds_vit_micro8", "slimming serves families with batch norm, and ds_vit_micro8"),
        ({"criterion": "slimming"}, "ds_resnet_micro8", "slimming serves families with batch norm"),
    ],
)
def test_what_cannot_be_done_is_told_before_any_work(options: dict, model: str, message: str):
    spec = small_spec("pruning", model=model, options=options)
    with pytest.raises(UserError, match=message):
        Pruning().check(spec, PRESETS.get(model).build(channels=1), 8)


def test_a_detector_is_pruned_by_its_own_loss(tmp_path: Path):
    make_set(tmp_path, train=16, val=8, test=1)
    where = DataSpec("voc", "painted", image_size=64)
    data = load(where, tmp_path)
    options = {"criterion": "taylor", "budgets": [0.5], "finetune_epochs": 0, "taylor_images": 8}
    training = TrainSpec(epochs=1, batch_size=8, lr=0.01)
    spec = small_spec("pruning", model="ds_mobilenet_det_micro", data=where, train=training, options=options)
    (point,) = trained_points(spec, tmp_path / "run", data=data)
    net = PRESETS.get(spec.model).build(classes=2)
    full, image = net.cost(net.space.uniform_choices[-1], 64).madds, torch.zeros(1, 3, 64, 64)
    assert point(image).output.shape == net(image, net.space.largest).shape
    (madds,) = point.madds(torch.empty(1, 0)).tolist()
    assert madds == fvcore_madds(point.network, image)
    assert abs(madds - 0.5 * full) <= TOLERANCE * 0.5 * full


def test_a_detector_whose_channels_become_positions_is_refused():
    model = "ds_mobilenet_v1_det"
    with pytest.raises(UserError, match="ds_mobilenet_v1_det turns channels into positions"):
        Pruning().check(small_spec("pruning", model=model), PRESETS.get(model).build(), 96)


ITERATIVE = {"criterion": "taylor", "budgets": [0.5], "iterative_steps": 2, "finetune_epochs": 2, "taylor_images": 64}


def test_points_are_named_small_and_reloaded_without_training(tmp_path: Path):
    spec = small_spec("pruning", options={"budgets": [0.5, 0.25], "finetune_epochs": 1})
    points = trained_points(spec, tmp_path)
    assert [point.name for point in points] == ["l1@0.5", "l1@0.25"]
    assert sorted(path.stem for path in (tmp_path / "checkpoints").iterdir()) == ["base", "l1@0.25", "l1@0.5"]
    (tmp_path / "checkpoints" / "base.safetensors").unlink()  # a point needs its own file only
    again = trained_points(spec, tmp_path, progress=interrupt_after(1))
    for point, loaded in zip(points, again, strict=True):
        claim = point.madds(torch.empty(1, 0)).item()
        assert (
            claim == loaded.madds(torch.empty(1, 0)).item() == executed_madds(point.executables()["extracted"], IMAGE)
        )
        assert torch.equal(point(images()).output, loaded(images()).output)
        assert point.params_stored == sum(p.numel() for p in loaded.network.parameters())
    assert points[1].params_stored < points[0].params_stored


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_networks(tmp_path: Path):
    """Broken off twice in the middle of a fine-tuning; gradients choose the channels."""
    spec = small_spec("pruning", options=ITERATIVE)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    trained_points(spec, whole)
    for calls in (3, 2):  # the base takes two steps, and so do both fine-tunings
        with pytest.raises(Interrupted):
            trained_points(spec, broken, progress=interrupt_after(calls), checkpoint_s=0)
    trained_points(spec, broken)
    files = checkpoint_bytes(whole)
    assert files.keys() == {"base.safetensors", "taylor@0.5.1of2.safetensors", "taylor@0.5.safetensors"}
    assert files == checkpoint_bytes(broken)


@pytest.mark.slow
def test_network_slimming_shrinks_the_scales(tmp_path: Path):
    scales = {}
    for strength in (0.0, 0.1):
        options = {"criterion": "slimming", "sparsity": strength, "budgets": [0.6], "finetune_epochs": 0}
        spec = small_spec("pruning", options=options, train=TrainSpec(epochs=3, batch_size=64))
        trained_points(spec, tmp_path / spec.run_id)
        state = load_file(tmp_path / spec.run_id / "checkpoints" / "base.safetensors")
        plain = base()
        plain.load_state_dict({key.removeprefix("network/"): value for key, value in state.items()})
        norms = [module.weight for module in plain.modules() if isinstance(module, nn.BatchNorm2d)]
        scales[strength] = torch.cat(norms).abs().mean().item()
    assert scales[0.1] < 0.9 * scales[0.0]


TIMM = {
    "mobilenetv1_100": ("l1", 64),
    "resnet50": ("l2", 64),
    "deit_small_patch16_224": ("l1", 224),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMM)
def test_timm_models_are_pruned_to_half(name: str, tmp_path: Path):
    timm = pytest.importorskip("timm")
    criterion, size = TIMM[name]
    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False).eval()
    image = torch.randn(1, 3, size, size)
    pruned = prune_to_budget(network, image, 0.5, CRITERIA[criterion])
    assert abs(pruned.madds - 0.5 * pruned.full_madds) <= TOLERANCE * 0.5 * pruned.full_madds
    assert pruned.madds == executed_madds(pruned.network, image) == fvcore_madds(pruned.network, image)
    output = pruned.network(image)
    assert output.shape == (1, 1000)
    assert output.isfinite().all()
    save_file({k: v.contiguous() for k, v in pruned.network.state_dict().items()}, tmp_path / "pruned.safetensors")
    rebuilt = rebuild(timm.create_model(name, pretrained=False).eval(), load_file(tmp_path / "pruned.safetensors"))
    assert torch.equal(rebuilt(image), output)
