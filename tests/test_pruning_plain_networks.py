"""Pruning follows the channels of anyone's network, or says of which layer it cannot."""

import copy
from pathlib import Path

import pytest
import timm
import torch
from timm.models.densenet import DenseNet
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from baselines.pruning_budget import check_budget, prune_to_budget
from baselines.pruning_criteria import CRITERIA, Evidence
from baselines.pruning_surgery import Surgeon
from bench.core.errors import UserError
from bench.core.registry import load_plugin
from bench.data.dataset import Batch
from bench.models import PRESETS
from bench.profilers.madds import check_counted, executed_madds
from bench.slicing.extract import extract

SIZE = 64
IMAGE = torch.zeros(1, 3, SIZE, SIZE)


def swin() -> nn.Module:
    sizes = {"img_size": 56, "window_size": 7, "embed_dim": 32, "depths": (2, 2), "num_heads": (2, 4)}
    return SwinTransformer(num_classes=5, **sizes)


NETWORKS = {
    "resnet": lambda: timm.create_model("test_resnet", num_classes=5),
    "squeeze-and-excitation, grouped": lambda: timm.create_model("regnety_002", num_classes=5),
    "depth-wise": lambda: timm.create_model("mobilenetv3_small_050", num_classes=5),
    "concatenated": lambda: DenseNet(growth_rate=8, block_config=(3, 2), num_classes=5),
    "layer norm": lambda: timm.create_model("test_convnext", num_classes=5),
    "attention": lambda: timm.create_model("deit_tiny_patch16_224", num_classes=5, img_size=SIZE, depth=2),
    "windows": swin,
}


def network_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(NETWORKS[name]()).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


def image_for(name: str) -> Tensor:
    return torch.zeros(1, 3, 56, 56) if name == "windows" else IMAGE


def unread(network: nn.Module, surgeon: Surgeon, kept: dict[str, tuple[int, ...]]) -> nn.Module:
    """A copy in which nothing reads the channels that are not kept: the pruned network, but for what it saves."""
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for coupling in surgeon.couplings:
            gone = torch.ones(coupling.units, dtype=torch.bool)
            gone[list(kept[coupling.name])] = False
            for layer in coupling.layers:
                if layer.role == "consumer":
                    weight = copied.get_submodule(layer.path).weight
                    weight[:, layer.places[gone[layer.unit_of]]] = 0
    return copied


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_the_pruned_network_is_the_one_in_which_nothing_reads_what_was_cut(name):
    network, image = network_of(name), image_for(name)
    surgeon = Surgeon(network, image)
    # A layer norm sees how many channels there are, so there the width of the stream must stay as it is.
    cut = [c for c in surgeon.couplings if not any(isinstance(layer.module, nn.LayerNorm) for layer in c.layers)]
    assert len(cut) >= 4
    kept = {c.name: tuple(range(0, c.units, 2 if c in cut else 1)) for c in surgeon.couplings}
    small, x = surgeon.operate(kept).eval(), torch.rand(2, *image.shape[1:])
    torch.testing.assert_close(small(x), unread(network, surgeon, kept)(x), rtol=1e-4, atol=1e-5)
    assert executed_madds(small, image) < 0.8 * executed_madds(network, image)
    check_counted(small, image)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "criterion", ["l1", *(pytest.param(each, marks=pytest.mark.slow) for each in ("fpgm", "norm_scale", "taylor"))]
)
def test_every_criterion_prunes_it_to_half(name, criterion):
    network, image = network_of(name), image_for(name)
    x = torch.rand(4, *image.shape[1:])
    batches = [Batch((x,), torch.tensor([0, 1, 2, 3]))]
    if (name, criterion) == ("windows", "norm_scale"):  # the stream, which its norms are of, cannot be followed
        with pytest.raises(UserError, match=r"has 0.\d+ of the .* cannot follow the channels of 0.patch_embed.proj"):
            prune_to_budget(network, image, 0.5, CRITERIA[criterion])
        return
    pruned = prune_to_budget(network, image, 0.5, CRITERIA[criterion], batches=batches)
    assert abs(pruned.madds / pruned.full_madds - 0.5) <= 0.01
    assert pruned.network.eval()(x).shape == (4, 5)


def test_scores_of_norms_behind_a_concatenation_are_of_their_own_channels():
    network = network_of("concatenated")
    surgeon = Surgeon(network, IMAGE)
    first = next(c for c in surgeon.couplings if c.name == "0.features.conv0")
    norms = {layer.path: layer for layer in first.norms}
    behind = norms["0.features.denseblock1.denselayer2.norm1"]
    assert behind.places.tolist() == list(range(16))  # of 24: the others come from the first layer of the block
    assert behind.module.num_features == 24
    with torch.no_grad():
        for norm in first.norms:
            norm.module.weight.fill_(1.0)
            norm.module.weight[16:] = 100.0
    (score,) = CRITERIA["norm_scale"].score(Evidence(surgeon.network, [first]))
    assert torch.equal(score, torch.ones(16, dtype=torch.float64))


def test_shortcuts_that_pad_channels_are_left_alone_and_named():
    load_plugin(Path(__file__).parent.parent / "docs" / "examples" / "cifar_resnets.py")
    torch.manual_seed(0)
    net = PRESETS.get("resnet20").build(10, 3).eval()
    network, image = extract(net, net.space.largest), torch.zeros(1, 3, 32, 32)
    surgeon = Surgeon(network, image)
    assert [c.name for c in surgeon.couplings] == [f"0.layer{s}.{b}.conv1" for s in (1, 2, 3) for b in range(3)]
    said = check_budget(network, image, 0.5, CRITERIA["l1"])
    assert said.startswith("the dependency graph cannot follow the channels of 0.conv1 (it counts 64 channels of")
    kept = {c.name: tuple(range(c.units // 2)) for c in surgeon.couplings}
    small, x = surgeon.operate(kept).eval(), torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(small(x), unread(network, surgeon, kept)(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(
        UserError, match=r"budget 0.01 is out of reach.*; the dependency graph cannot follow .* 0.conv1"
    ):
        check_budget(network, image, 0.01, CRITERIA["l1"])


def test_what_does_not_run_without_a_channel_is_left_alone():
    class Fixed(nn.Module):
        """Reads its channels in two halves of a fixed width, which no trace tells."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.fc = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            assert x.shape[1] == 8
            return self.fc(self.second(x).mean((2, 3)))

    surgeon = Surgeon(nn.Sequential(Fixed()), IMAGE)
    assert [coupling.name for coupling in surgeon.couplings] == ["0.second"]
    assert surgeon.left == {"0.first": "without one of its channels the network does not run"}
