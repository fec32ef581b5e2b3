"""DS-Net: a supernet trained by the sandwich rule, and gates that choose the width for each image (Li et al. 2021).

DS-Net++ (Li et al. 2022) is the same two stages on networks that slice several dimensions, with a gate at each place
where one stands (`bench/models`), and multi-view consistency for transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.core.ranges import Count, FromZero, Share
from bench.core.spec import RunSpec
from bench.data.dataset import Dataset
from bench.methods import SUPERNET, Method, Run, build_model, method_of, reseed, trained_supernet
from bench.models import PRESETS, Preset
from bench.models.order import Order, check_order, in_order
from bench.points import OperatingPoint, RoutedPoint
from bench.slicing.choice import Choice
from bench.slicing.dynamic import check_routing
from bench.slicing.gate import Gate, Routing
from bench.slicing.supernet import Supernet, View
from bench.training.budget import budget_offsets, check_budgets, option_costs, route_span, spendable
from bench.training.calibrate import calibrate, check_images
from bench.training.front import check_front
from bench.training.gating import StageTwo, named_gates, train_gates
from bench.training.loop import stable_seed
from bench.training.supernet import Distillation, StageOne, train_supernet


@dataclass(frozen=True)
class DSNetOptions(StageTwo):
    """Every technique of the paper as a switch: those of stage II (`StageTwo`), and

    Attributes:
        distillation, random_widths, ema, ema_warmup: stage I (`StageOne`).
        recalibrate: re-estimate batch-norm statistics of every choice before stage II.
        calibration_images: on the first so many images of the calibration split; null for all of them.
        routing: the routing spaces, one operating point each: lists of options, cheapest first; empty for one space
            that holds every option. With several gates a list is that of every gate, or there is a list for each gate.
            The paper sets its budgets by them (METHODS 5.3).
        budgets: wanted mean multiply-adds, gates included, as fractions of a routing space's costliest route: one more
            operating point for each routing space that can spend it, by an offset on the gates' logits that is fitted
            on the validation split (`training/budget.py`).
        channel_order: order of the channels that stage I starts from (`models/order.py`). It says something where they
            are trained: a slice of pretrained weights is then made of the channels that matter most.
        shared_front: forward the segments that all sub-networks share once a step of stage I (`StageOne`).
    """

    distillation: Distillation = "bootstrap"
    random_widths: FromZero = 2
    ema: Share = 0.997
    ema_warmup: bool = True
    recalibrate: bool = True
    calibration_images: Count | None = None
    routing: tuple[tuple[int | tuple[int, ...], ...], ...] = ()
    budgets: tuple[float, ...] = ()
    channel_order: Order = "none"
    shared_front: bool = False

    def stage_one(self) -> StageOne:
        return StageOne(
            self.distillation, self.random_widths, self.ema, self.ema_warmup, shared_front=self.shared_front
        )


class DSNet(Method):
    """Dynamic slimmable network: stage I, recalibration, stage II; for each routing space a dynamic point that takes
    the gates' largest logits, and one for each budget."""

    name = "ds_net"
    kind = "dynamic"
    paper = "Li et al., CVPR 2021, arXiv 2103.13258"
    trains = ("dynamic slimmable",)
    leaves = "supernet"
    version = 2
    Options = DSNetOptions

    def check(self, spec: RunSpec, net: Supernet, image_size: int) -> None:
        options = self.options(spec)
        if self.stage_one(options, PRESETS.get(spec.model)).averages and spec.train.ema:
            raise UserError(
                "train.ema is for networks without a moving average of their own, and distillation "
                f"{options.distillation!r} keeps one; set options.ema"
            )
        if options.shared_front:
            check_front(net.space, [net.space.largest, net.space.smallest])
        spaces = routing_spaces(net, options)
        check_order(PRESETS.get(spec.model), options.channel_order)
        gates = [options.new_gates(net, routing, image_size) for routing in spaces]
        spans = [route_span(net, *built, image_size) for built in zip(gates, spaces, strict=True)]
        check_budgets(options.budgets, spans)
        if options.calibration_images is not None:
            _check_calibration(net, options)

    def check_data(self, spec: RunSpec, data: Dataset) -> None:
        images = self.options(spec).calibration_images
        if images is not None:
            check_images(data.calibration, images)

    def stage_one(self, options: DSNetOptions, preset: Preset) -> StageOne:
        """How the supernet of a run is trained. Raises `UserError` for options that exclude each other."""
        return options.stage_one()

    def train(self, run: Run) -> None:
        options: DSNetOptions = run.options
        net = in_order(build_model(run), run.preset.family, options.channel_order, stable_seed(run.spec.seed, "order"))
        spaces = routing_spaces(net, options)
        self._train_supernet(net, run)
        net = trained_supernet(run)
        for number, routing in enumerate(spaces):
            widest = View(net.eval(), net.space.routed([options_[-1] for options_ in routing]))
            task = run.task.fitted(widest, run.data.validation, run.device)
            reseed(run.spec, "gate", number)
            gates, _ = train_gates(gate_name(number), net, routing, options, task, run)
            budgets = spendable(options.budgets, route_span(net, gates, routing, run.data.image_size))
            if budgets:
                run.once(f"budgets{number}", partial(fitted_offsets, net, gates, routing, budgets, run))

    def points(self, run: Run) -> list[OperatingPoint]:
        net, gated = trained_gates(run)
        size, points = run.data.image_size, []
        for number, (routing, gates) in enumerate(gated):
            points.append(RoutedPoint(point_name(routing), net, gates, routing, size))
            budgets = spendable(run.options.budgets, route_span(net, gates, routing, size))
            offsets = run.read(f"budgets{number}")[0]["offsets"].tolist() if budgets else []
            costs = option_costs(net, routing, size)
            for budget, offset in zip(budgets, offsets, strict=True):
                leaning = [gate.leaning(offset, cost) for gate, cost in zip(gates, costs, strict=True)]
                points.append(RoutedPoint(f"{point_name(routing)}-budget{budget:g}", net, leaning, routing, size))
        return points

    def subnetworks(self, spec: RunSpec, net: Supernet) -> list[Choice]:
        count = min(len(decision.options) for decision in net.space.decisions)
        return [net.space.routed([option] * len(net.space.decisions)) for option in range(count)]

    def _train_supernet(self, net: Supernet, run: Run) -> None:
        """Stage I and recalibration."""
        options: DSNetOptions = run.options
        net, history = train_supernet(net, self.stage_one(options, run.preset), run)

        def recalibrated() -> tuple[dict[str, Supernet], dict[str, Any]]:
            if options.recalibrate and net.space.prefix_statistics:
                calibrate(net, net.space.named, run.data.calibration, run.device, images=options.calibration_images)
            return {"supernet": net}, history

        run.once(SUPERNET, recalibrated)


@dataclass(frozen=True)
class DSNetPPOptions(DSNetOptions):
    """As `DSNetOptions`, and

    Attributes:
        multi_view: MvCo, the teacher sees another view of each image (`StageOne`); null: what the abstract credits to
            the family, MvCo for transformers and plain IB for CNNs (METHODS 1 and 4.2).
    """

    multi_view: bool | None = None


class DSNetPP(DSNet):
    """DS-Net++: filters and kernel size in CNNs; heads, MLP width and embedding in Vision Transformers.

    Known are the dimensions, the technique of each family and SGS for the gates (METHODS 1 and 2). Not public, so
    our design: the lists of choices and the places of the gates (documented with each family), the formula of MvCo
    (`bench/training/supernet.py`), and that all gates are trained at once, each for the same SGS target.
    """

    name = "ds_net_pp"
    paper = "Li et al., TPAMI 2023, arXiv 2109.10060"
    trains = ("dynamic weight slicing",)
    Options = DSNetPPOptions

    def stage_one(self, options: DSNetPPOptions, preset: Preset) -> StageOne:  # type: ignore[override]
        settings = options.stage_one()
        usual = settings.averages and preset.family.tokens
        return replace(settings, multi_view=usual if options.multi_view is None else options.multi_view)


def _check_calibration(net: Supernet, options: DSNetOptions) -> None:
    """Raise `UserError` for a number of calibration images that would be without effect."""
    if not options.recalibrate or not net.space.prefix_statistics:
        reason = "recalibrate is false" if not options.recalibrate else "this model has no batch norm"
        raise UserError(f"calibration_images says nothing where {reason}; leave it out")


def gate_name(number: int) -> str:
    return f"gate{number}"


def fitted_offsets(
    net: Supernet, gates: Sequence[Gate], routing: Routing, budgets: Sequence[float], run: Run
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The offset of each budget, fitted on the validation split, as a checkpoint keeps them."""
    offsets = budget_offsets(net, gates, routing, budgets, run.data.image_size, run.data.validation, run.device)
    return {"offsets": torch.tensor(offsets, dtype=torch.float64)}, {}


def point_name(routing: Routing) -> str:
    """The name of a dynamic point: what its gates may choose, said once where all may choose the same."""
    lists = ["-".join(map(str, options)) for options in routing]
    return "dynamic" + (lists[0] if len(set(lists)) == 1 else "_".join(lists))


def routing_spaces(net: Supernet, options: DSNetOptions) -> list[Routing]:
    """The routing spaces of a run, for each gate, checked against the network. Raises `UserError` for an option that
    it does not have, or that is listed twice or out of order."""
    decisions = net.space.decisions
    if not decisions:
        raise UserError("this model has no gate, so nothing can be routed; DS-Net needs one with a gate")
    if not options.routing:
        return [tuple(tuple(range(len(decision.options))) for decision in decisions)]
    spaces = [check_routing(net.space, per_gate(routing, len(decisions))) for routing in options.routing]
    for lists in spaces:
        for options_ in lists:
            if list(options_) != sorted(set(options_)):
                raise UserError(f"routing space {list(options_)} must list each option once, the cheapest first")
    for place, lists in enumerate(spaces):
        if lists in spaces[:place]:
            raise UserError(f"routing must name each routing space once, and {point_name(lists)} is there twice")
    return spaces


def per_gate(routing: tuple[int | tuple[int, ...], ...], gates: int) -> Routing:
    """A routing space as it may be written, one list for all gates or a list for each, as a list for each."""
    lists = tuple(options for options in routing if isinstance(options, tuple))
    if not lists:
        return (tuple(option for option in routing if isinstance(option, int)),) * gates
    if len(lists) < len(routing):
        raise UserError(f"routing space {routing} mixes options and lists of options; give one list, or one a gate")
    return lists


def require_gates(spec: RunSpec) -> None:
    """Raise `UserError` for a run that leaves no gates."""
    if not isinstance(method_of(spec.method), DSNet):
        raise UserError(
            f"{spec.run_id} is a run of {spec.method}; gates are found in runs of {DSNet.name} and {DSNetPP.name}"
        )


def trained_gates(run: Run) -> tuple[Supernet, list[tuple[Routing, list[Gate]]]]:
    """The supernet of a trained run of DS-Net or DS-Net++, and its gates by routing space.

    Raises:
        UserError: it is a run of another method, or a checkpoint is missing.
    """
    require_gates(run.spec)
    options: DSNetOptions = run.options
    net = trained_supernet(run)
    trained = []
    for number, routing in enumerate(routing_spaces(net, options)):
        gates = options.new_gates(net, routing, run.data.image_size)
        run.restore(gate_name(number), named_gates(gates))
        trained.append((routing, [gate.eval() for gate in gates]))
    return net, trained
