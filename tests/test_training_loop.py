"""The loop: resumed runs end in the same bytes, divergence and foreign checkpoints are errors, schedules by hand."""

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_runs import Interrupted, changed, checkpoint_bytes, interrupt_after, run_at, state_of
from torch import nn

from bench.core.errors import UserError
from bench.core.spec import OPTIMIZERS, TrainSpec
from bench.training import checkpoint
from bench.training.loop import CURVE_POINTS, Plan, fit, stable_seed, train_network
from bench.training.optim import (
    falling_by_steps,
    growing_decay,
    learning_rate,
    move_average,
    optimizer_of,
    parameter_groups,
    rate_of,
    sgd,
)

SPEC = TrainSpec(epochs=2, batch_size=32, warmup_epochs=0.5)
RUN_ID = run_at(Path(), SPEC, 3).run_id
STEPS = 8  # 128 images, so 4 steps an epoch


def network(seed: int = 0) -> nn.Module:
    """Batch norm keeps statistics and dropout draws noise: both must survive an interruption."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(144, 10)
    )


def train(directory, spec=SPEC, net=None, seed=3, **how):
    net = network() if net is None else net
    return net, train_network("net", net, run_at(directory, spec, seed, **how))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that nobody interrupted: its network, its history and its files."""
    directory = tmp_path_factory.mktemp("whole")
    return *train(directory), checkpoint_bytes(directory)


def interrupted(directory, step, net=None):
    with pytest.raises(Interrupted):
        train(directory, net=net, progress=interrupt_after(step), checkpoint_s=0.0)


def resumed(directory):
    """Go on as another process would: other random state, other initial weights. Which steps were done is returned."""
    torch.manual_seed(99)
    done = []
    net, history = train(directory, net=network(7), progress=lambda *said: done.append(said), checkpoint_s=0.0)
    assert all((label, total) == ("net", STEPS) for label, _, total in done)
    return net, history, [step for _, step, _ in done]


# After one step nothing is saved yet; 4 and 5 stand on both sides of the epochs' border; 8 is the last step.
@pytest.mark.parametrize("step", [2, 4, 5, STEPS])
def test_an_interrupted_training_ends_in_the_same_bytes(tmp_path, whole, step):
    interrupted(tmp_path, step)
    net, history, done = resumed(tmp_path)
    assert done == list(range(step, STEPS + 1)), "the step that was not saved is repeated, and no other"
    assert history == whole[1]
    assert checkpoint_bytes(tmp_path) == whole[2]
    assert not changed(state_of(whole[0]), net)


def test_the_losses_of_some_steps_are_kept(tmp_path):
    """About fifty of a training, its last step among them; the checkpoint's notes hold them."""
    _, history = train(tmp_path)
    curve = checkpoint.notes_of(tmp_path / "checkpoints" / "net.safetensors")["curve"]
    assert [step for step, _ in curve] == list(range(1, STEPS + 1))
    assert all(math.isfinite(value) for _, losses in curve for value in losses.values())
    assert "curve" not in history
    assert CURVE_POINTS >= STEPS


def test_an_interruption_before_the_first_checkpoint_starts_over(tmp_path, whole):
    interrupted(tmp_path, 1)
    train(tmp_path)
    assert checkpoint_bytes(tmp_path) == whole[2]


def test_interrupted_twice(tmp_path, whole):
    interrupted(tmp_path, 3)
    interrupted(tmp_path, 2, network(5))
    _, _, done = resumed(tmp_path)
    assert done == list(range(4, STEPS + 1))
    assert checkpoint_bytes(tmp_path) == whole[2]


def test_what_is_trained_is_not_trained_again(tmp_path, whole):
    train(tmp_path)
    net, history, done = resumed(tmp_path)
    assert done == []
    assert history == whole[1]
    assert not changed(state_of(whole[0]), net)
    assert not net.training


def test_a_kill_between_the_last_two_files_leaves_no_partial_checkpoint(tmp_path, whole):
    """The finished weights are renamed into place before the partial ones are deleted."""
    train(tmp_path)
    (tmp_path / "checkpoints" / "net.partial.safetensors").write_bytes(b"left over")
    resumed(tmp_path)
    assert checkpoint_bytes(tmp_path) == whole[2]


def test_seed_and_name_decide_and_global_state_does_not(tmp_path, whole):
    torch.manual_seed(5)
    initial = network()
    torch.manual_seed(6)
    assert not changed(state_of(whole[0]), train(tmp_path / "a", net=initial)[0])
    other, _ = train(tmp_path / "b", seed=4)
    assert changed(state_of(whole[0]), other)
    assert stable_seed(3, "net", 1) != stable_seed(31, "net")
    assert stable_seed(0, "a") == 3278080721094677132, "seeds are equal in every process and version"


@pytest.mark.parametrize("name", ["net", "net.partial"])
def test_a_checkpoint_of_another_run_is_an_error(tmp_path, name):
    checkpoint.save(tmp_path / "checkpoints" / f"{name}.safetensors", network().state_dict(), "run-2", {})
    with pytest.raises(UserError, match=f"belongs to run run-2, not to {RUN_ID}"):
        train(tmp_path)


@pytest.mark.parametrize("name", ["net", "net.partial"])
@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_a_truncated_checkpoint_is_one_sentence(tmp_path, name, kept):
    path = tmp_path / "checkpoints" / f"{name}.safetensors"
    checkpoint.save(path, network().state_dict(), RUN_ID, {})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"is damaged .* delete it to train again") as caught:
        train(tmp_path)
    assert "\n" not in str(caught.value)
    assert path.exists(), "nothing is deleted"


def test_any_flipped_byte_of_a_header_is_one_sentence_or_harmless(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"w": torch.ones(2)}, "run-1", {"steps": 4})
    good = path.read_bytes()
    refused = 0
    for place in range(len(good) - 8):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        try:
            checkpoint.load(path, "run-1")
        except UserError:
            refused += 1
    assert refused > len(good) // 2


def test_a_missing_checkpoint_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint net\.safetensors .* has its run been trained"):
        checkpoint.load(tmp_path / "net.safetensors", "run-1")


def test_a_checkpoint_of_another_architecture_is_one_sentence(tmp_path):
    train(tmp_path)
    wider = nn.Sequential(nn.Conv2d(1, 5, 3))
    with pytest.raises(UserError, match=r"the checkpoint does not fit network: .*") as caught:
        train(tmp_path, net=wider)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_returns_what_was_saved(tmp_path):
    tensors = {"b": torch.randn(3, 2).t(), "a": torch.arange(4), "c": torch.tensor(2.5)}
    notes = {"step": 3, "losses": {"loss": 0.1 + 0.2}}
    files = []
    for name, order in (("1", ["a", "b", "c"]), ("2", ["c", "a", "b"])):
        checkpoint.save(tmp_path / name, {key: tensors[key] for key in order}, "run-1", notes)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1], "equal contents are equal bytes"
    loaded, said = checkpoint.load(tmp_path / "1", "run-1")
    assert said == notes
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[key], value) for key, value in tensors.items())
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["1", "2"], "no temporary file stays behind"


def test_a_diverging_training_is_a_clear_error(tmp_path):
    spec = TrainSpec(epochs=1, batch_size=32, lr=1e25)
    with pytest.raises(UserError, match=r"training net diverged at step [123] .*; lower train\.lr"):
        train(tmp_path, spec)
    assert not (tmp_path / "checkpoints").exists(), "a diverged network is not kept"


def test_a_training_that_diverges_in_its_last_step_is_not_kept(tmp_path):
    spec = TrainSpec(epochs=1, batch_size=128, lr=1e38, momentum=0.99)
    with pytest.raises(UserError, match=r"training net diverged .* lower train\.lr"):
        train(tmp_path, spec, net=nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False), Times(100.0)))
    assert not (tmp_path / "checkpoints").exists()


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def test_a_batch_larger_than_the_split_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="batch size 256 is larger than the 128 images"):
        train(tmp_path, TrainSpec(batch_size=256))


def test_no_epochs_keep_the_network_as_it_is(tmp_path):
    net = network()
    before = state_of(net)
    _, history = train(tmp_path, TrainSpec(epochs=0), net=net)
    assert history == {"steps": 0, "images": 0, "losses": {}}
    assert not changed(before, net)


def test_a_training_may_be_stopped_after_a_few_steps_and_still_resumes(tmp_path, whole):
    """With its schedule drawn together; a limit beyond the end changes nothing."""
    short = replace(SPEC, max_steps=3)
    net, history = train(tmp_path / "one", short)
    assert (history["steps"], history["images"]) == (3, 96)
    with pytest.raises(Interrupted):
        train(tmp_path / "two", short, progress=interrupt_after(2), checkpoint_s=0.0)
    said = []
    again, _ = train(tmp_path / "two", short, network(7), progress=lambda *what: said.append(what))
    assert said == [("net", 2, 3), ("net", 3, 3)]
    assert not changed(state_of(net), again)
    longer, history = train(tmp_path / "three", replace(SPEC, max_steps=1000))
    assert history == whole[1]
    assert not changed(state_of(whole[0]), longer)


TECHNIQUES = {
    **{name: {"optimizer": name, "lr": 0.003, "clip_grad": 1.0} for name in OPTIMIZERS if name != "sgd"},
    "mixed and averaged": {
        "optimizer": "adamw", "lr": 0.003, "schedule": "linear", "mixup": 0.8, "cutmix": 1.0, "ema": 0.9,
        "accumulate": 2,
    },
    "erased": {"random_erasing": 0.7, "schedule": "step", "decay_epochs": 1, "warmup_steps": 3, "accumulate": 4},
}  # fmt: skip


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_every_technique_resumes_to_the_same_bytes(tmp_path, technique):
    """Among them counters of steps that optimizers keep as tensors, as numbers, for a parameter or for a group; the
    convolution lies channels last, as all networks of the suite do, and must come back so: LAMB takes norms."""
    spec = replace(SPEC, **TECHNIQUES[technique])

    def fresh(seed):
        return network(seed).to(memory_format=torch.channels_last)

    initial = fresh(0)
    net, history = train(tmp_path / "whole", spec, net=fresh(0))
    for seed in (0, 5):
        with pytest.raises(Interrupted):
            train(tmp_path / "broken", spec, fresh(seed), progress=interrupt_after(3), checkpoint_s=0.0)
    again, told = train(tmp_path / "broken", spec, fresh(7))
    assert told == history
    assert checkpoint_bytes(tmp_path / "broken") == checkpoint_bytes(tmp_path / "whole")
    assert not changed(state_of(net), again)
    assert changed(state_of(initial), net) >= {"0.weight", "5.weight", "1.running_mean"}


def test_techniques_change_the_outcome(tmp_path, whole):
    """None of them is a name alone."""
    outcomes = [whole[0]]
    for index, setting in enumerate(
        [{"optimizer": "adamw"}, {"schedule": "linear"}, {"warmup_steps": 5}, {"mixup": 0.5}, {"cutmix": 0.5},
         {"random_erasing": 1.0}, {"clip_grad": 0.1}, {"accumulate": 2}, {"ema": 0.5}]
    ):  # fmt: skip
        net, _ = train(tmp_path / str(index), replace(SPEC, **setting))
        assert all(changed(state_of(net), other) for other in outcomes), setting
        outcomes.append(net)


def test_parts_of_a_batch_give_the_gradient_of_the_whole(tmp_path):
    """Without batch norm and dropout, whose parts see other images: a step in four parts is a step in one."""
    nets = []
    for accumulate in (1, 4):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
        spec = replace(SPEC, accumulate=accumulate, max_steps=3)
        nets.append(train(tmp_path / str(accumulate), spec, net=net)[0])
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_each_part_has_its_images_and_the_choices_of_the_step(tmp_path):
    net, seen = nn.Linear(1, 1), []

    def step(batch, index):
        seen.append((index, batch.x, batch.targets, torch.rand(1).item()))
        net.weight.sum().backward()
        return {"loss": float(len(seen))}

    spec = TrainSpec(epochs=1, batch_size=32, accumulate=4, max_steps=1)
    history = fit(Plan("net", {"network": net}, step), run_at(tmp_path, spec))
    batch = next(run_at(tmp_path, spec).data.train.train_batches(32, seed=0, epoch=0))
    assert [index for index, *_ in seen] == [0] * 4
    for part, (_, x, targets, _) in enumerate(seen):
        assert torch.equal(x, batch.x[part::4])
        assert torch.equal(targets, batch.targets[part::4])
    assert len({noise for *_, noise in seen}) == 4, "dropout differs, as on processes of a group"
    assert history["losses"] == {"loss": 2.5}
    assert net.weight.grad is not None
    assert net.weight.grad.item() == 1.0, "the mean of the parts' gradients"


def test_a_limit_of_the_gradient_by_hand(tmp_path):
    net = nn.Linear(4, 1, bias=False)
    nn.init.zeros_(net.weight)
    spec = TrainSpec(epochs=1, batch_size=64, lr=0.5, momentum=0.0, weight_decay=0.0, clip_grad=0.25, max_steps=1)
    train_network("net", net, run_at(tmp_path, spec), lambda batch, index: 3 * net.weight.sum())
    assert net.weight.norm().item() == pytest.approx(0.5 * 0.25, rel=1e-4)


def test_the_average_that_is_kept_is_the_loop_written_out(tmp_path):
    weights, average = [], 0.0
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)

    def remember(batch, index):
        weights.append(net.weight.item())
        return net.weight.sum()

    spec = TrainSpec(epochs=2, batch_size=64, lr=0.5, momentum=0.0, weight_decay=0.0, min_lr=0.5, ema=0.15)
    train_network("net", net, run_at(tmp_path, spec), remember)
    assert weights == [0.0, -0.5, -1.0, -1.5]
    for step, weight in enumerate([-0.5, -1.0, -1.5, -2.0]):
        decay = min(0.15, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
    assert net.weight.item() == pytest.approx(average, rel=1e-6)
    assert [growing_decay(0.15, step) for step in (0, 1)] == [0.1, 0.15]


def test_the_schedules_are_those_of_timm():
    """Two implementations: timm's schedulers and ours. timm counts a warm-up from its first value."""
    from timm.scheduler.cosine_lr import CosineLRScheduler
    from timm.scheduler.poly_lr import PolyLRScheduler
    from timm.scheduler.step_lr import StepLRScheduler

    def rates(kind, *args, **how):
        optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.4)
        scheduler, seen = kind(optimizer, *args, **how), []
        for step in range(20):
            scheduler.step(step)
            seen.append(optimizer.param_groups[0]["lr"])
        return seen

    spec = TrainSpec(lr=0.4, min_lr=0.04, decay_epochs=1, decay_rate=0.5)
    warm = replace(spec, warmup_steps=4)
    ours = {
        schedule: [rate_of(replace(spec, schedule=schedule), step, 20, 3) for step in range(20)]
        for schedule in ("cosine", "linear", "step")
    }
    assert ours["cosine"] == pytest.approx(rates(CosineLRScheduler, 20, lr_min=0.04))
    assert ours["linear"] == pytest.approx(rates(PolyLRScheduler, 20, power=1.0, lr_min=0.04))
    assert ours["step"] == pytest.approx([max(rate, 0.04) for rate in rates(StepLRScheduler, 3, 0.5)])
    for schedule in ("cosine", "linear", "step"):
        rising = [rate_of(replace(warm, schedule=schedule), step, 20, 3) for step in range(5)]
        assert rising[:4] == pytest.approx([0.13, 0.22, 0.31, 0.4])
        assert rising[4] <= 0.4
    assert falling_by_steps(7, 0, 1.0, 0.0, 3, 0.5) == 0.25


def test_the_schedule_by_hand():
    rates = [learning_rate(step, 8, 2, 1.0, 0.2) for step in range(8)]
    assert rates[:3] == pytest.approx([0.6, 1.0, 1.0])  # half way, at the peak, then the cosine starts at the peak
    assert rates[5] == pytest.approx(0.6)  # the middle of the cosine
    assert rates[7] == pytest.approx(0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * 5 / 6)))
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert [learning_rate(0, steps, 0, 0.1, 1e-5) for steps in (1, 100)] == [0.1, 0.1]
    assert learning_rate(100, 100, 0, 0.1, 1e-5) == pytest.approx(1e-5)


def test_the_loop_follows_the_schedule_and_sgd_by_hand(tmp_path):
    """Two steps of one weight whose gradient is always 1: momentum, Nesterov, decay and rate, in plain numbers."""
    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(2.0)
    spec = TrainSpec(epochs=1, batch_size=64, lr=0.5, weight_decay=0.1, momentum=0.9, min_lr=0.1)

    train_network("net", net, run_at(tmp_path, spec), lambda batch, index: net.weight.sum())
    weight, velocity = 2.0, 0.0
    for rate in (0.5, 0.3):  # the cosine from 0.5 to 0.1 over two steps
        gradient = 1.0 + 0.1 * weight
        velocity = 0.9 * velocity + gradient
        weight -= rate * (gradient + 0.9 * velocity)
    assert net.weight.item() == pytest.approx(weight, rel=1e-6)


class Distances(nn.Module):
    """Distances to ten points: a product of matrices inside one operator that no formula counts."""

    def __init__(self):
        super().__init__()
        self.points = nn.Parameter(torch.randn(10, 64))

    def forward(self, x):
        return torch.cdist(x.flatten(1), self.points)


def test_a_network_that_cannot_be_counted_is_refused_before_it_trains(tmp_path):
    done = []
    with pytest.raises(UserError, match="no rule says what the operator _cdist_forward costs"):
        train(tmp_path, net=Distances(), progress=lambda *said: done.append(said), checkpoint_s=0.0)
    assert done == []
    assert not list(tmp_path.rglob("*.safetensors"))


def test_each_step_has_noise_of_its_own_and_clean_gradients(tmp_path):
    net, noise, gradients = nn.Linear(1, 1), [], []

    def step(batch, index):
        gradients.append(net.weight.grad)
        noise.append(torch.rand(1).item())
        (net.weight.sum() + net.bias.sum()).backward()
        return {"loss": 0.0}

    fit(Plan("net", {"network": net}, step), run_at(tmp_path, SPEC))
    assert gradients == [None] * STEPS
    assert len(set(noise)) == STEPS


def test_only_weights_decay():
    frozen = nn.Linear(2, 2).requires_grad_(False)
    groups = parameter_groups([network(), frozen], 0.3)
    decay = {group["weight_decay"]: sorted(p.dim() for p in group["params"]) for group in groups}
    assert decay == {0.3: [2, 4], 0.0: [1, 1, 1, 1]}
    optimizer = sgd([network()], TrainSpec(weight_decay=0.3, momentum=0.8))
    assert {(g["weight_decay"], g["momentum"], g["nesterov"]) for g in optimizer.param_groups} == {
        (0.3, 0.8, True),
        (0.0, 0.8, True),
    }
    assert not sgd([network()], TrainSpec(momentum=0.0)).param_groups[0]["nesterov"]
    assert [group["weight_decay"] for group in parameter_groups([nn.BatchNorm2d(2)], 0.3)] == [0.0]
    for name in OPTIMIZERS:
        made = optimizer_of([network()], TrainSpec(optimizer=name, weight_decay=0.3, momentum=0.8, lr=0.01))
        assert [(g["weight_decay"], g["lr"], g.get("momentum", 0.8)) for g in made.param_groups] == [
            (0.3, 0.01, 0.8),
            (0.0, 0.01, 0.8),
        ]


def test_a_moving_average_equals_the_loop():
    average = network()
    hand = copy.deepcopy(average)
    for seed in (1, 2, 3):
        current = network(seed)
        current(torch.randn(4, 1, 8, 8))  # moves the statistics
        before = state_of(current)
        move_average(average, current, 0.9)
        for key, value in hand.state_dict().items():
            if value.is_floating_point():
                value.mul_(0.9).add_(0.1 * current.state_dict()[key])
        assert not changed(before, current)
    for key, value in average.state_dict().items():
        torch.testing.assert_close(value, hand.state_dict()[key])
    assert average.state_dict()["1.running_mean"].abs().sum() > 0, "statistics are averaged too"
