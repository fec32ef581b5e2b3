"""Several processes on one run: two of them against one that forwards their two shares in turn."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import CPU, DATA, digits, full_routing, run_at, run_of, small_net
from torch import distributed

from bench.core.errors import UserError
from bench.core.spec import RunSpec, TrainSpec
from bench.data.group import ALONE, Group, current
from bench.evaluation import accuracy
from bench.evaluation.proof import prove
from bench.methods import method_of
from bench.tasks.classification import Classification
from bench.training import checkpoint, gating, joint, loop, supernet
from bench.training.supernet import StageOne

TRAIN = TrainSpec(epochs=20, batch_size=16, lr=0.01, max_steps=20)
MIXED = {"mixup": 0.4, "accumulate": 2, "clip_grad": 1.0, "ema": 0.9, "random_erasing": 0.5}
SETTINGS = {"plain, mixed, in parts": MIXED, "group norm": {"lr": 0.002}}  # which amplifies rounding the most


def stage_one(model: str, settings: StageOne):
    return lambda run: supernet.train_supernet(small_net(model), settings, run)


def stage_two(run):
    net = small_net("ds_resnet_micro8")
    gating.train_gates("gate0", net, full_routing(net), gating.StageTwo(gate_epochs=20, gate_lr=0.01), run.task, run)


def method(name: str, model: str, **options):
    def train(run, spec):
        method_of(name).train(replace(run, spec=spec, options=method_of(name).options(spec)))

    spec = RunSpec(name, model, data=DATA, train=TRAIN, options=options)
    return lambda run: train(run, replace(spec, train=run.spec.train))


TRAININGS = {
    "batch norm": stage_one("ds_mobilenet_micro8", StageOne()),
    "group norm": stage_one("ds_resnet_micro8", StageOne("inplace")),
    "ViT with two views": stage_one("ds_vit_micro8", StageOne(multi_view=True)),
    "private parameters": method("s_net", "s_resnet_basic_micro8", shared_front=True),
    "stage II": stage_two,
    "early exits": method("early_exit", "ds_resnet_basic_micro8"),
    "plain, mixed, in parts": method("uniform", "us_resnet_basic_micro8", choices=(0,)),
}


def recorded(gradients: list[list[torch.Tensor]]):
    """`finish_gradients` that keeps what it leaves."""

    def finish(parameters, *how):
        finished(parameters, *how)
        gradients.append([torch.empty(0) if p.grad is None else p.grad.clone() for p in parameters])

    finished = loop.finish_gradients
    return finish


def in_turn(plan, run):
    """As `fit`, for batches in two parts: running statistics are those of the first one, as of rank 0."""
    calls = itertools.count()
    buffers = [b for module in plan.trained.values() for b in module.buffers() if b.is_floating_point()]

    def step(batch, index):
        before, number = [buffer.clone() for buffer in buffers], next(calls)
        losses = plan.step(batch, index)
        if number % run.spec.train.accumulate % 2:
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
        return losses

    return fit(replace(plan, step=step), run)


fit = loop.fit


def train(name: str, folder: Path, group: Group = ALONE) -> list[list[torch.Tensor]]:
    """The gradients of every step of a training."""
    spec = replace(TRAIN, **SETTINGS.get(name, {}))
    spec = replace(spec, **({"workers": 2} if group.size == 2 else {"accumulate": 2 * spec.accumulate}))
    with pytest.MonkeyPatch.context() as patch:
        gradients: list[list[torch.Tensor]] = []
        patch.setattr(loop, "finish_gradients", recorded(gradients))
        if group.size == 1:
            for module in (loop, supernet, joint, gating):
                patch.setattr(module, "fit", in_turn)
        TRAININGS[name](run_at(folder, spec, group=group))
    return gradients


def exits_of(folder: Path, group: Group = ALONE):
    """An operating point that two processes trained early exits for."""
    spec = RunSpec("early_exit", "ds_resnet_basic_micro8", data=DATA, train=replace(TRAIN, workers=2))
    return method_of("early_exit").points(run_of(spec, folder / "early exits", group=group))[0]


def judged(point, group: Group = ALONE):
    with pytest.MonkeyPatch.context() as patch:  # more batches, the last of them ragged
        patch.setattr(accuracy, "BATCH", 50)
        split = digits().validation
        scores = accuracy.evaluate(point, split, Classification(), CPU, group)
        return scores, prove(point, split, CPU, group)


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    group = current()
    assert group == Group(rank, 2)
    told: dict = {name: train(name, folder / name, group) for name in TRAININGS}
    told["judged"] = judged(exits_of(folder, group), group)
    with pytest.raises(UserError, match="of rank 0"):
        group.same(lambda: refuse(rank))
    torch.save(told, folder / f"{rank}.pt")
    group.leave()


def refuse(rank: int) -> None:
    raise UserError(f"of rank {rank}")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("group")
    torch.multiprocessing.spawn(work, (folder,), nprocs=2)
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def close(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """The relative difference of two lists of tensors as one vector."""
    assert [tensor.shape for tensor in one] == [tensor.shape for tensor in other]
    a, b = (torch.cat([tensor.flatten().double() for tensor in tensors]) for tensors in (one, other))
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_do_what_one_does_with_their_shares_in_turn(name, both, tmp_path):
    folder, (first, second) = both
    gradients = train(name, tmp_path)
    assert len(gradients) == len(first[name]) == 20
    assert all(map(torch.equal, first[name][0], second[name][0])), "equal in all processes"
    assert close(first[name][0], gradients[0]) < 1e-6
    for file in sorted((tmp_path / "checkpoints").glob("*.safetensors")):
        ours, theirs = (
            checkpoint.load(where / "checkpoints" / file.name, None)[0] for where in (folder / name, tmp_path)
        )
        floats = [key for key, value in theirs.items() if value.is_floating_point()]
        assert close([ours[key] for key in floats], [theirs[key] for key in floats]) < 1e-5, file.name


def test_an_evaluation_of_two_processes_is_that_of_one(both):
    folder, told = both
    scores, proof = judged(exits_of(folder))
    for seen, proven in (each["judged"] for each in told):
        for field in ("score", "madds", "route", "params"):
            np.testing.assert_array_equal(getattr(seen, field), getattr(scores, field))
        assert proven == proof


def test_shares_of_memory_and_boxes_are_those_of_the_whole_batches():
    split = digits().train.augmented_with(None, 0.5)
    for chosen in (digits().train, split):
        whole = list(chosen.train_batches(32, seed=1, epoch=2, views=2, start=1))
        for rank in range(2):
            shares = chosen.train_batches(32, seed=1, epoch=2, views=2, start=1, part=(rank, 2))
            for share, batch in zip(shares, whole, strict=True):
                assert all(
                    torch.equal(view, part[rank::2]) for view, part in zip(share.views, batch.views, strict=True)
                )
                assert torch.equal(share.targets, batch.targets[rank::2])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"workers": 0}, "train.workers must be an integer, at least 1"),
        ({"workers": 3}, "train.workers must divide train.batch_size, and 3 does not divide 16"),
        ({"workers": 8, "accumulate": 8}, "train.accumulate times train.workers must divide train.batch_size"),
        ({"workers": 16, "mixup": 0.2}, "is an odd number of them"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        replace(TRAIN, **changes)
