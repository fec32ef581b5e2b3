"""Mixing, erasing and RandAugment: what they do to images and labels, their seeds, and what refuses them."""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from image_folders import write_folders
from small_runs import digits, run_at, run_of, small_net, small_spec

from bench.core.errors import UserError
from bench.core.spec import DataSpec, TrainSpec
from bench.data.augment import Normalisation
from bench.data.boxes import BoxAugmentation, BoxSplit
from bench.data.dataset import Batch
from bench.data.imagenet import load_imagenet
from bench.methods import METHODS, method_of, plain_network
from bench.models import PRESETS
from bench.slicing.ops import drop_path, drop_rates
from bench.tasks.classification import Classification
from bench.training.loop import Plan, fit
from bench.training.mixing import mixed, training_split

MIXUP, CUTMIX = TrainSpec(mixup=0.8), TrainSpec(cutmix=1.0)


def batch_of(views: int = 1) -> Batch:
    return next(digits().train.train_batches(8, seed=1, epoch=0, views=views))


def test_mixup_by_hand():
    plain, twice = batch_of(), [mixed(batch_of(), MIXUP, 10, 5) for _ in range(2)]
    share = twice[0].targets[0].max().item()
    shares = {share, 1 - share}
    x, labels = plain.x, F.one_hot(plain.targets, 10).float()
    fits = []
    for lam in shares:
        pixels = torch.allclose(twice[0].x, lam * x + (1 - lam) * x.flip(0), atol=1e-6)
        fits.append(pixels and torch.allclose(twice[0].targets, lam * labels + (1 - lam) * labels.flip(0), atol=1e-6))
    assert any(fits)
    assert torch.equal(twice[0].x, twice[1].x)
    assert not torch.equal(twice[0].x, mixed(batch_of(), MIXUP, 10, 6).x)


def test_cutmix_takes_as_much_of_the_label_as_of_the_image():
    plain, result = batch_of(), mixed(batch_of(), CUTMIX, 10, 3)
    x, labels = plain.x, F.one_hot(plain.targets, 10).float()
    other = (result.x == x.flip(0)) & (result.x != x)
    assert ((result.x == x) | other).all(), "every pixel is of one of two images"
    cut = other.any(0).any(0)  # (H, W)
    rows, columns = cut.any(1).nonzero(), cut.any(0).nonzero()
    area = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
    lam = 1 - area.item() / cut.numel()
    torch.testing.assert_close(result.targets, lam * labels + (1 - lam) * labels.flip(0), rtol=0, atol=0.13)
    torch.testing.assert_close(result.targets.sum(1), torch.ones(8))


def test_views_are_mixed_alike():
    plain, result = batch_of(2), mixed(batch_of(2), MIXUP, 10, 5)
    lam = [((mix - x.flip(0)) / (x - x.flip(0)))[x != x.flip(0)].median() for mix, x in zip(result.views, plain.views)]  # noqa: B905
    torch.testing.assert_close(lam[0], lam[1], rtol=1e-4, atol=1e-4)
    assert result.targets.shape == (8, 10)


def test_smoothing_mixed_labels_is_mixing_smoothed_ones():
    """timm smooths before it mixes, the task's loss after."""
    from timm.data.mixup import mixup_target
    from timm.loss.cross_entropy import SoftTargetCrossEntropy

    logits, labels = torch.randn(8, 10), torch.arange(8)
    theirs = SoftTargetCrossEntropy()(logits, mixup_target(labels, 10, 0.3, 0.1))
    ours = Classification().loss(logits, mixup_target(labels, 10, 0.3, 0.0), 0.1)
    torch.testing.assert_close(ours, theirs)


def test_mixing_leaves_the_random_state():
    batch = batch_of()
    torch.manual_seed(1)
    expected = torch.rand(3), np.random.get_state(legacy=True)[1].tolist()  # type: ignore[index] # noqa: NPY002
    torch.manual_seed(1)
    mixed(batch, MIXUP, 10, 5)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.random.get_state(legacy=True)[1].tolist() == expected[1]  # type: ignore[index] # noqa: NPY002


def test_parts_of_a_batch_hold_each_image_once():
    batch = batch_of(2)
    parts = [batch.part(index, 4) for index in range(4)]
    assert torch.equal(torch.stack([p.targets for p in parts], 1).flatten(), batch.targets)
    assert all(torch.equal(part.views[1], batch.views[1][index::4]) for index, part in enumerate(parts))


def test_the_loop_mixes_each_part_apart(tmp_path):
    net, seen = torch.nn.Linear(1, 1), []

    def step(batch, index):
        seen.append(batch.targets.max(1).values.min().item())
        net.weight.sum().backward()
        return {"loss": 0.0}

    spec = TrainSpec(epochs=1, batch_size=32, accumulate=2, mixup=1.0, max_steps=3)
    fit(Plan("net", {"network": net}, step), run_at(tmp_path, spec))
    assert len(seen) == len({round(share, 6) for share in seen}) == 6, "another share for each part of each step"


def test_erasing_in_memory_is_a_function_of_seed_epoch_and_step():
    split = digits().train
    erased = split.augmented_with(None, 0.5)
    how: dict[str, Any] = {"seed": 3, "epoch": 1, "views": 2}
    plain, whole = list(split.train_batches(32, **how)), list(erased.train_batches(32, **how))
    later = list(erased.train_batches(32, start=2, **how))
    for one, other in zip(whole[2:], later, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.views, other.views, strict=True))
    pairs = zip(plain, whole, strict=True)
    touched = [[(a != b).flatten(1).any(1) for a, b in zip(x.views, y.views, strict=True)] for x, y in pairs]
    share = torch.stack([view for views in touched for view in views]).float().mean()
    assert 0.35 < share < 0.65, "half of the images"
    assert not torch.equal(touched[0][0], touched[0][1]), "views are erased apart"
    assert not torch.equal(touched[0][0], touched[1][0])
    assert torch.equal(next(split.train_batches(32, **how)).x, plain[0].x), "the split itself is as it was"
    assert torch.equal(next(erased.batches(32)).x, next(split.batches(32)).x), "evaluation sees whole images"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_folders(root / "imagenet", train=20, val=2)
    return load_imagenet(DataSpec("imagenet", "subset", image_size=32, augmentation="light"), root)


def test_photographs_take_a_policy_and_erasing(photographs):
    split = photographs.train

    def first(spec: TrainSpec) -> torch.Tensor:
        return next(training_split(replace(spec, batch_size=16), photographs).train_batches(16, seed=0, epoch=0)).x

    plain = next(split.train_batches(16, seed=0, epoch=0)).x
    assert torch.equal(first(TrainSpec()), plain)
    assert torch.equal(first(TrainSpec(randaugment="none", random_erasing=0.0)), plain)
    erased = first(TrainSpec(random_erasing=1.0))
    assert (erased != plain).flatten(1).any(1).all()
    same = (erased == plain).flatten(1).float().mean(1)
    assert (same > 0.5).all(), "the rest of each image is the same crop"
    assert (first(TrainSpec(randaugment="rand-m9-mstd0.5")) != plain).flatten(1).any(1).any()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"optimizer": "adamm"}, "train.optimizer must be one of sgd, adamw"),
        ({"schedule": "cos"}, "train.schedule must be one of cosine, linear, step"),
        ({"precision": "half"}, "train.precision must be one of float32, bfloat16"),
        ({"mixup": -1}, "train.mixup must be a number, at least 0"),
        ({"ema": 1.0}, "train.ema must be a number, from 0 to below 1"),
        ({"accumulate": 0}, "train.accumulate must be an integer, at least 1"),
        ({"accumulate": 3}, "train.accumulate must divide train.batch_size, and 3 does not divide 64"),
        ({"mixup": 0.5, "accumulate": 64}, "1 is an odd number of them; change train.batch_size"),
        ({"randaugment": "rand-m9-oops"}, "train.randaugment must be none or a policy such as rand-m9-mstd0.5"),
        ({"random_erasing": 2}, "train.random_erasing must be a chance from 0 to 1, not 2"),
        ({"decay_rate": 0}, "train.decay_rate must be above 0, not 0"),
        ({"warmup_steps": -1}, "train.warmup_steps must be an integer, at least 0"),
    ],
)
def test_impossible_settings_are_one_sentence(change, sentence):
    with pytest.raises(UserError, match=sentence):
        TrainSpec(**change)


def test_data_refuse_what_they_cannot_have():
    with pytest.raises(UserError, match="randaugment is for images in folders; digits/official@1:train"):
        training_split(TrainSpec(randaugment="rand-m9"), digits())
    with pytest.raises(UserError, match="mix the labels of whole images, and digits/official@1 is data for detection"):
        training_split(MIXUP, replace(digits(), task="detection"))


def test_boxes_take_neither():
    images, targets = np.zeros((4, 8, 8, 3), np.uint8), np.zeros((4, 1, 6), np.float32)
    plain = Normalisation(255.0, (0.5,) * 3, (0.2,) * 3)
    split = BoxSplit("train", "voc/toy@1:train", images, targets, plain, BoxAugmentation())
    with pytest.raises(UserError, match=r"voc/toy@1:train takes neither train\.randaugment nor train\.random_erasing"):
        training_split(TrainSpec(batch_size=2, random_erasing=0.2), replace(digits(), train=split, task="detection"))


def test_two_averages_of_one_supernet_are_refused():
    spec = small_spec("ds_net", train=TrainSpec(epochs=1, batch_size=64, ema=0.9))
    with pytest.raises(UserError, match=r"distillation 'bootstrap' keeps one; set options\.ema"):
        method_of("ds_net").check(spec, small_net(), 8)
    method_of("ds_net").check(replace(spec, options={"distillation": "inplace"}), small_net(), 8)


ALL_TECHNIQUES = TrainSpec(
    epochs=1, batch_size=64, lr=0.002, optimizer="adamw", schedule="linear", warmup_steps=1, mixup=0.4, cutmix=0.4,
    random_erasing=0.3, clip_grad=1.0, accumulate=2,
)  # fmt: skip


@pytest.mark.parametrize("name", [name for name in METHODS.names() if not METHODS.get(name).needs_parent])
def test_every_method_trains_with_all_techniques(tmp_path: Path, name):
    """Gates are trained on whole images with their labels; all else on mixed ones. Residual blocks are left out."""
    spec = small_spec(name)
    blocks = hasattr(PRESETS.get(spec.model).config, "drop_path")
    train = replace(ALL_TECHNIQUES, drop_path=0.3 if blocks else 0.0)
    run = run_of(replace(spec, train=train), tmp_path)
    method_of(name).train(run)
    assert method_of(name).points(run)


RESIDUAL = [name for name in PRESETS.names() if hasattr(PRESETS.get(name).config, "drop_path") and "micro8" in name]


@pytest.mark.parametrize("model", RESIDUAL)
def test_blocks_are_left_out_in_training_alone(model):
    """Supernet and extracted network alike: the weights and their names are the same, and evaluation is."""
    x, space = batch_of().x, build(model, 0.0).space
    for choice in (space.largest, space.smallest):
        supernets = [build(model, rate) for rate in (0.0, 0.5)]
        for one, other in (supernets, [plain_network(net, choice) for net in supernets]):
            assert one.state_dict().keys() == other.state_dict().keys()
            arguments = (x, choice) if one is supernets[0] else (x,)
            assert torch.equal(one.eval()(*arguments), other.eval()(*arguments))
            outputs = []
            for _ in range(2):
                torch.manual_seed(1)
                outputs.append(other.train()(*arguments))
            assert torch.equal(*outputs)
            assert not torch.equal(outputs[0], one.train()(*arguments))


def build(model: str, rate: float):
    torch.manual_seed(0)
    return PRESETS.get(model).build(drop_path=rate)


def test_drop_path_is_that_of_timm():
    from timm.layers.drop import drop_path as theirs

    x = torch.randn(64, 3, 2, 2)
    torch.manual_seed(0)
    ours = drop_path(x, 0.25, True)
    torch.manual_seed(0)
    assert torch.equal(ours, theirs(x, 0.25, True))
    assert drop_path(x, 0.25, False) is x
    assert drop_path(x, 0.0, True) is x
    assert drop_rates(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_a_network_without_residual_blocks_refuses_to_leave_any_out():
    with pytest.raises(
        UserError, match=r"train\.drop_path leaves out residual blocks, and ds_mobilenet_micro8 has none"
    ):
        PRESETS.get("ds_mobilenet_micro8").build(drop_path=0.1)


def test_the_docs_list_every_field():
    page = (Path(__file__).parents[1] / "docs" / "training.md").read_text()
    assert {field.name for field in fields(TrainSpec)} <= set(re.findall(r"`([a-z_]+)`", page))
