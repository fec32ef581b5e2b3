"""What is found out before anything runs: data, settings, and whether each run can start from what it names."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.errors import UserError
from bench.core.identity import recorded, refuse_other_data
from bench.core.spec import DataSpec, RunSpec
from bench.core.store import Store

if TYPE_CHECKING:  # recipes are listed without torch
    from bench.data.dataset import Dataset
    from bench.models.weights import Weights
    from bench.slicing.supernet import Supernet

NetworkOf = Callable[[RunSpec], "Supernet"]


def check(
    specs: Sequence[RunSpec],
    data_root: Path | None,
    results: Path | None = None,
    given: Mapping[str, Weights] | None = None,
) -> list[str]:
    """Find out before anything runs what would fail anyway. `results` and `given` as in `check_starts`.

    Returns what is to be said before anything runs: a line for each data that has a summary, and what methods say.

    Raises:
        UserError: data that is not there or too few for a batch, images that a network cannot take, a choice or budget
            that it cannot meet, a meter that nobody knows, a start from weights or a run of something else, a run or
            its parent that has seen other data.
    """
    from bench.data import load
    from bench.methods import check_task, method_of
    from bench.models import PRESETS
    from bench.profilers import METERS
    from bench.profilers.model import check_size
    from bench.training.mixing import training_split

    loaded = cache(lambda data, images: load(data, data_root, images))
    dataset = lambda spec: loaded(spec.data, PRESETS.get(spec.model).input)

    @cache
    def network(model: str, data: DataSpec, drop_path: float) -> Any:
        preset = PRESETS.get(model)
        images = loaded(data, preset.input)
        check_task(preset, images)
        net = preset.build(len(images.classes), images.channels, drop_path, images.image_size)
        check_size(net, model, images.image_size)
        return net

    network_of = lambda spec: network(spec.model, spec.data, spec.train.drop_path)
    for meter in itertools.chain.from_iterable(spec.profile.meters for spec in specs):
        METERS.get(meter)
    said: list[str | None] = [dataset(spec).summary for spec in specs]
    for spec in specs:
        net, images = network_of(spec), dataset(spec)
        try:
            training_split(spec.train, images)
            said.append(method_of(spec.method).check(spec, net, images.image_size))
            method_of(spec.method).check_data(spec, images)
        except UserError as error:
            raise UserError(f"{spec.method} on {spec.model}: {error}") from error
    check_starts(specs, network_of, dataset, results, given or {})
    if results is not None and results.is_dir():
        _check_data(specs, dataset, Store(results, writable=False))
    return list(dict.fromkeys(text for text in said if text))


def _check_data(specs: Sequence[RunSpec], dataset_of: Callable[[RunSpec], Dataset], store: Store) -> None:
    """Raises `UserError` for a run, or the parent of one, that has seen other data than there are."""
    stored = set(store.runs())
    for spec in specs:
        names = [spec.run_id]
        if spec.init_from in stored and store.read_spec(spec.init_from).data == spec.data:
            names.append(spec.init_from)
        for run_id in names:
            seen = recorded(store, run_id)
            refuse_other_data(seen, dataset_of(spec).digests(*seen), run_id)


def given_weights(text: str | None) -> dict[str, Weights]:
    """The weights that `--weights` gives, by the name that specs have for them; empty where it was not used.

    Raises:
        UserError: timm has no such weights or cannot be reached; the file is missing or holds no state dict.
    """
    if text is None:
        return {}
    from bench.models.weights import given

    weights = given(text)
    return {weights.name: weights}


def own_weights(specs: Sequence[RunSpec]) -> dict[str, Weights]:
    """The weights of models that come with a file of them, by name, where a spec starts from them."""
    from bench.models import PRESETS
    from bench.models.weights import given

    presets = {spec.model: PRESETS.get(spec.model) for spec in specs if spec.weights is not None}
    files = {preset.weights for preset in presets.values() if preset.weights not in (None, preset.name)}
    named = {weights.name: weights for weights in map(given, sorted(filter(None, files)))}
    return {spec.weights: named[spec.weights] for spec in specs if spec.weights in named}


def keep_weights(given: Mapping[str, Weights], store: Store) -> None:
    """Put given weights into the results, where the runs that name them find them."""
    for weights in given.values():
        from bench.models.weights import keep

        keep(weights, store.weights)


def check_starts(
    specs: Sequence[RunSpec],
    network_of: NetworkOf,
    dataset_of: Callable[[RunSpec], Dataset],
    results: Path | None,
    given: Mapping[str, Weights],
) -> None:
    """Find out before anything runs whether each run can start from what it names.

    Args:
        network_of: the network of a run for its data, with any weights. dataset_of: its data.
        results: where parents that are not among the specs, and weights, are looked for.
        given: weights by name that are not kept there yet (`--weights`).

    Raises:
        UserError: weights that are missing or of another network; a parent that leaves no network, another one, or one
            that a method cannot work on as it is set.
    """
    from bench.methods import check_parent, method_of

    by_id = {spec.run_id: spec for spec in specs}
    states: dict[str, Any] = {name: weights.state for name, weights in given.items()}
    for spec in specs:
        if spec.weights is not None:
            _check_weights(spec, network_of, dataset_of(spec).classes, results, states)
        planned, stored = by_id.get(spec.init_from or ""), _stored(spec.init_from, results)
        parent = planned or stored
        if parent is None:
            continue  # the plan of execution says what is missing
        check_parent(spec, parent)
        if method_of(spec.method).needs_parent:
            try:
                method_of(spec.method).check_on(spec, parent, network_of(spec), dataset_of(spec).image_size)
            except UserError as error:
                raise UserError(f"{spec.method} on {parent.run_id}: {error}") from error
        else:
            state = network_of(parent).state_dict() if planned else _left(parent, results)
            _check_networks(spec, parent, state, network_of(spec))


def _check_weights(
    spec: RunSpec, network_of: NetworkOf, classes: Sequence[str], results: Path | None, states: dict[str, Any]
) -> None:
    from bench.methods import method_of
    from bench.models import PRESETS
    from bench.models.weights import find, start_from

    assert spec.weights is not None
    try:
        if spec.weights not in states:
            states[spec.weights] = find(spec.weights, (results or Path("results")) / "weights")
        start = start_from(spec.weights, states[spec.weights], network_of(spec), PRESETS.get(spec.model), classes)
        if start.stayed and method_of(spec.method).as_given and spec.train.epochs == 0:
            raise UserError(f"nothing is trained, and their classifier is not one of these {len(classes):,} classes")
    except UserError as error:
        raise UserError(f"{spec.method} on {spec.model} cannot start from {spec.weights}: {error}") from error


def _stored(run_id: str | None, results: Path | None) -> RunSpec | None:
    if run_id is None or results is None or not results.is_dir():
        return None
    store = Store(results, writable=False)
    return store.read_spec(run_id) if run_id in store.runs() else None


def _left(parent: RunSpec, results: Path | None) -> Mapping[str, Any] | None:
    """The supernet that a run of an earlier command left, whose data need not be here; None where there is none."""
    from bench.methods import SUPERNET, left_by, method_of
    from bench.runs.run import open_run

    assert results is not None
    store = Store(results, writable=False)
    if method_of(parent.method).leaves != "supernet" or not store.has(parent.run_id, "train"):
        return None
    return left_by(open_run(store, parent, None), SUPERNET, "supernet")


def _check_networks(spec: RunSpec, parent: RunSpec, state: Mapping[str, Any] | None, net: Supernet) -> None:
    """Raises `UserError` where the parent's network differs in more than the head."""
    from bench.models.transfer import head_of, transfer

    if state is None:
        return
    try:
        transfer(state, net, head_of(net))
    except UserError as error:
        raise UserError(
            f"{spec.method} on {spec.model} cannot start from {parent.run_id}, a run of {parent.model}: {error}"
        ) from error
