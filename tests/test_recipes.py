"""From what the user names to the specs that run: recipes, settings, devices, and what is found out beforehand."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.core.errors import UserError
from bench.core.spec import DataSpec, RunSpec, TrainSpec, changed
from bench.methods import METHODS, completed, method_of
from bench.methods.ds_net import routing_spaces
from bench.models import PRESETS
from bench.recipes import registry as recipes
from bench.recipes.arms import GATED, on_checkpoint, over_seeds, with_controls
from bench.recipes.registry import RECIPES, resolve
from bench.recipes.sources import FIELDS, PAPERS, differences, in_effect
from bench.runs.check import check
from bench.runs.prepare import placed, with_overrides

DS, US = "ds_mobilenet_micro8", "us_mobilenet_micro8"
PARENT = RunSpec("ds_net", DS, method_version=2)
CHILD = RunSpec("random_gate", DS, init_from=PARENT.run_id)


def by_method(specs: list[RunSpec], seed: int = 0) -> dict[str, RunSpec]:
    return {spec.method: spec for spec in specs if spec.seed == seed}


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)


# What recipes hold.


@pytest.mark.parametrize("name", RECIPES.names())
def test_every_recipe_gives_runs_that_their_methods_accept(name):
    recipe = RECIPES.get(name)
    assert recipe.__doc__
    specs = resolve(name, range(2))
    assert {spec.seed for spec in specs} == {0, 1}
    assert len({spec.run_id for spec in specs}) == len(specs)
    known = {spec.run_id: spec for spec in specs}
    for spec in specs:
        completed(spec)
        if spec.init_from is not None:
            assert known[spec.init_from].seed == spec.seed  # a control on the checkpoint of its own seed


# Of the sorted run_ids with three seeds: a recipe's runs are found again in results of before.
RUN_IDS = {
    "ablation_bn": "d91f73f2316e30c7",
    "ablation_distillation": "4c6e2fd2f9f0356d",
    "ablation_distillation_cifar10": "86dfe026eb0dd810",
    "ablation_gate": "6973ffabc9d9e9b5",
    "ablation_mvco": "20d1948cc9db3e89",
    "ablation_routing": "79857ebbe9b16788",
    "ablation_sandwich": "a021193b589d880a",
    "bccd": "5051b32e60e429ee",
    "channel_order": "d10100bcf0123d23",
    "cifar10": "76b0bf3021370234",
    "cifar100_core": "c376e3fa7f8577f6",
    "cifar100_transfer": "50768c3be7803c70",
    "cifar10_core": "aea610da4be58e50",
    "cifar10_families": "b4c758272c0443ad",
    "cifar10_gates": "6e4b595cc69ee9a0",
    "cifar10_more": "b0a709585b310975",
    "cifar10_pp": "63379dbfe54d0418",
    "cifar10_smoke": "cf537d731609f1ca",
    "cifar10_transfer": "32a7b4e14a531330",
    "digits_all": "74930cab2f5301c4",
    "digits_families": "b808ea59f0e571e3",
    "imagenet10_core": "05026079c3b6dfaa",
    "imagenet10_smoke": "289cf227a499d4e6",
    "imagenet_ds_mbnet": "35203a98f0c5d646",
    "imagenet_ds_resnet": "b2216a05057a786e",
    "imagenet_ds_vit": "c71c37f5b0565006",
    "imagenet_nested_vit": "57ee10dfe39a395a",
    "imagenet_pruning": "e9892730759ea6d1",
    "imagenet_thinking_vit": "26a3de81a841ad06",
    "imagenet_us_net": "45ca5eca99c6ae14",
    "official_ds_mbnet": "780a16380d048cb8",
    "official_hydravit": "fa8f2081af32e72a",
    "official_thinking_vit": "6de65fde786143a4",
    "official_us_mobilenet": "689dec731f02273a",
    "quickstart": "8fa656f8ee338723",
    "voc07_core": "54afe682963728e7",
    "voc_animals": "ecf5647cfcd9c67c",
    "voc_ds_mbnet": "883e7d70477ddb28",
    "finetune": "e1f3a80b5ff9fe98",
    "pretrained": "6b462f0ca13f9470",
}


def test_the_runs_of_every_recipe_keep_their_names():
    ids = {name: sorted(spec.run_id for spec in resolve(name, range(3))) for name in RECIPES.names()}
    assert {name: hashlib.sha256(json.dumps(some).encode()).hexdigest()[:16] for name, some in ids.items()} == RUN_IDS


def test_a_run_with_its_controls_over_seeds():
    run = RunSpec("ds_net", DS, DataSpec(train_images=300), TrainSpec(epochs=2), options={"random_widths": 1})
    specs = over_seeds([*with_controls(run, *GATED), on_checkpoint(run, "sliced_order", order="l1")], (0, 7))
    assert [(spec.method, spec.seed) for spec in specs] == [
        (method, seed) for seed in (0, 7) for method in ("ds_net", "random_gate", "fixed_choice", "sliced_order")
    ]
    for parent, *controls in (specs[:4], specs[4:]):
        assert (parent.init_from, parent.options) == (None, run.options)
        assert {control.init_from for control in controls} == {parent.run_id}
        assert [control.options for control in controls] == [{}, {}, {"order": "l1"}]
        assert {(spec.model, spec.data, spec.train) for spec in controls} == {(run.model, run.data, run.train)}


@pytest.mark.parametrize("name", ["quickstart", "cifar10_smoke", "cifar10"])
def test_the_first_table_compares_all_first_methods(name):
    controls = ["random_gate", "fixed_choice"] * 2  # of the gates, and of the cascade
    methods = ["ds_net", "slice_cascade", *controls, "us_net", "uniform", "pruning"]
    assert sorted(spec.method for spec in resolve(name, range(1))) == sorted(methods)
    seeds = {0, 1} if name == "cifar10_smoke" else {0, 1, 2}  # two keep the smoke within its 20 minutes, unranked
    assert {spec.seed for spec in resolve(name, None)} == seeds


@pytest.mark.parametrize("name", ["cifar10_transfer", "cifar100_transfer"])
def test_a_transfer_starts_from_the_run_on_imagenet(name):
    specs = resolve(name, range(2))
    known = {spec.run_id: spec for spec in specs}
    transferred = [spec for spec in specs if spec.method == "ds_net" and spec.init_from]
    assert {known[spec.init_from].data.name for spec in transferred} == {"imagenet"}
    assert all(spec.model == known[spec.init_from].model for spec in transferred)
    assert {spec.data.image_size for spec in transferred} == {224}
    assert [spec.run_id for spec in transferred] == [spec.init_from for spec in specs if spec.method == "random_gate"]
    assert {spec.run_id for spec in resolve("imagenet_ds_resnet", range(2))} >= {s.init_from for s in transferred}


def test_every_full_recipe_says_what_to_expect():
    for name in (*(paper.recipe for paper in PAPERS), "cifar10_transfer", "cifar100_transfer"):
        text = " ".join(RECIPES.get(name).__doc__.split())
        assert "Not run here." in text
        assert "Expected" in text
        assert "hours" in text.lower()


def test_the_page_of_the_papers_recipes_says_what_they_are():
    """Every full-size run stands there with its source; `python -m bench.recipes.sources` makes the page."""
    assert (Path(__file__).parents[1] / "docs/paper_recipes.md").read_text() == differences() + "\n"
    here = {name for name in RECIPES.names() if RECIPES.get(name).__module__ == "bench.recipes.papers"}
    assert {paper.recipe for paper in PAPERS} == here
    for paper in PAPERS:
        assert paper.theirs.keys() <= set(FIELDS), "what no row shows"
        if paper.theirs:
            spec = resolve(paper.recipe, range(1))[paper.run]
            same = {name for name, value in paper.theirs.items() if in_effect(spec, name) == value}
            assert same == paper.theirs.keys(), "what differs is said in words, and there is nothing of that kind yet"


def test_the_gate_of_ds_mbnet_trains_as_released():
    """METHODS 6: stage II has a learning rate and a weight decay of its own, 30 epochs."""
    (spec,) = (spec for spec in resolve("imagenet_ds_mbnet", range(1)) if spec.method == "ds_net")
    settings = method_of("ds_net").options(spec)
    assert (settings.gate_epochs, settings.gate_lr, settings.gate_weight_decay) == (30, 0.08, 0.01)
    assert (settings.sgs_smoothing, settings.gate_ema) == (0.1, 0.997)


@pytest.mark.parametrize("name", ["quickstart", "cifar10_smoke", "cifar10"])
def test_all_methods_of_a_comparison_train_alike(name):
    """For as many epochs, those of fine-tuning included."""
    specs = resolve(name, range(1))
    tuned = {
        spec.method: method_of(spec.method).options(spec).finetune_epochs for spec in specs if spec.method == "pruning"
    }
    alike = [replace(s, train=replace(s.train, epochs=s.train.epochs + tuned.get(s.method, 0))) for s in specs]
    assert len({(spec.data, spec.train, spec.profile, spec.threads) for spec in alike}) == 1


@pytest.mark.parametrize("name", ["cifar10_core", "cifar100_core"])
def test_all_methods_of_the_evidence_train_equally_long(name):
    """Fine-tuning counts; what works on a checkpoint trains nothing of its own."""

    def epochs(spec: RunSpec) -> int:
        options = method_of(spec.method).options(spec)
        further = {"pruning": "finetune_epochs", "layer_skip": "gate_epochs"}.get(spec.method)
        return spec.train.epochs + (getattr(options, further) if further else 0)

    specs = [spec for spec in resolve(name, None) if spec.init_from is None]
    assert len({(epochs(spec), replace(spec.train, epochs=0), spec.data) for spec in specs}) == 1


CORE = ["cifar10_core", "cifar100_core", "cifar10_pp", "imagenet10_core", "voc07_core", "cifar10_gates"]


@pytest.mark.parametrize("name", CORE)
def test_every_gate_and_cascade_of_the_evidence_has_its_controls(name):
    specs = resolve(name, None)
    routed = [spec.run_id for spec in specs if spec.method.startswith("ds_net") or spec.method == "slice_cascade"]
    controlled = {method: {spec.init_from for spec in specs if spec.method == method} for method in GATED}
    assert routed
    assert all(set(routed) == parents for parents in controlled.values())


def test_a_seed_of_the_evidence_ends_before_the_next_begins():
    seeds = [spec.seed for spec in resolve("cifar10_core", None)]
    assert seeds == sorted(seeds)
    first, second = ([spec for spec in resolve("cifar10_core", None) if spec.seed == seed] for seed in (0, 1))
    assert {spec.method for spec in first} - {spec.method for spec in second} == {"early_exit", "layer_skip"}
    cascades = [spec for spec in second if spec.method == "slice_cascade"]
    parents = {spec.run_id: spec.method for spec in second}
    assert sorted(parents[spec.init_from] for spec in cascades) == ["ds_net", "s_net", "us_net"]


def test_gates_taught_again_stand_on_the_supernets_of_the_core():
    core = {spec.run_id for spec in resolve("cifar10_core", None)}
    runs = [spec for spec in resolve("cifar10_gates", None) if spec.method == "ds_net"]
    again = [spec for spec in runs if spec.run_id not in core]
    assert {spec.init_from for spec in again} == {spec.run_id for spec in runs} & core
    assert {spec.train.epochs for spec in again} == {0}


SPACES = [
    (spec, name) for name in RECIPES.names() for spec in resolve(name, range(1)) if spec.method.startswith("ds_net")
]


@pytest.mark.parametrize(("spec", "name"), SPACES, ids=lambda value: getattr(value, "run_id", value))
def test_gates_choose_between_options_whose_costs_lie_within_about_twice(spec, name):
    """Wider spaces are for the ablation that shows what goes wrong with them."""
    options, preset = method_of(spec.method).options(spec), PRESETS.get(spec.model)
    assert options.gate_lr <= 0.1
    if name == "ablation_routing" or (name == "cifar10_gates" and (0, 3) in options.routing):
        return
    net = preset.build()
    for routing in routing_spaces(net, options):
        cheapest, costliest = (net.space.routed([some[end] for some in routing]) for end in (0, -1))
        ratio = net.cost(costliest, preset.image_size).madds / net.cost(cheapest, preset.image_size).madds
        assert 1 < ratio < 2.3, (routing, ratio)


# Changes that keep families together.


@pytest.mark.parametrize("order", [[PARENT, CHILD], [CHILD, PARENT]])
def test_children_follow_their_parents_new_names(order):
    specs = changed(order, lambda spec: replace(spec, train=TrainSpec(epochs=1)))
    assert [spec.method for spec in specs] == [spec.method for spec in order]
    parent, child = (by_method(specs)[name] for name in ("ds_net", "random_gate"))
    assert parent.run_id != PARENT.run_id
    assert child.init_from == parent.run_id


def test_a_parent_that_is_not_among_the_specs_keeps_its_name():
    (child,) = changed([CHILD], lambda spec: replace(spec, seed=1))
    assert child.init_from == PARENT.run_id


def test_what_becomes_equal_counts_once():
    specs = [replace(PARENT, seed=seed) for seed in (0, 1, 2)]
    assert [spec.seed for spec in changed(specs, lambda spec: replace(spec, seed=5))] == [5]


def test_a_common_setting_reaches_every_run():
    specs = with_overrides(resolve("quickstart", range(2)), {"epochs": "1", "train.batch_size": "30"})
    assert len(specs) == 18
    assert {(spec.train.epochs, spec.train.batch_size) for spec in specs} == {(1, 30)}


def test_an_option_reaches_only_the_methods_that_have_it():
    before = by_method(resolve("quickstart", range(1)))
    after = by_method(with_overrides(list(before.values()), {"random_widths": "1", "options.finetune_epochs": "3"}))
    assert after["ds_net"].options["random_widths"] == after["us_net"].options["random_widths"] == 1
    assert after["pruning"].options["finetune_epochs"] == 3
    assert after["uniform"] == before["uniform"]
    for control in ("random_gate", "fixed_choice"):
        assert after[control].options == {}
        assert after[control].init_from == after["slice_cascade"].run_id != before["slice_cascade"].run_id
    assert after["slice_cascade"].init_from == after["ds_net"].run_id != before["ds_net"].run_id


def test_a_setting_that_no_run_has_is_named_with_the_nearest_of_all_methods():
    with pytest.raises(UserError, match=r"unknown key 'budgts'; did you mean 'budgets'\?"):
        with_overrides(resolve("quickstart", range(1)), {"budgts": "[0.5]"})
    with pytest.raises(
        UserError, match=r"unknown key in options 'epochs'; did you mean 'gate_epochs'\?|finetune_epochs"
    ):
        with_overrides(resolve("quickstart", range(1)), {"options.epochs": "1"})


@pytest.mark.parametrize("key", ["budget", "options.budget"])
def test_one_budget_stands_for_a_list_of_one(key):
    after = by_method(with_overrides(resolve("quickstart", range(1)), {key: "0.5"}))
    budgeted = {method for method, spec in after.items() if spec.options.get("budgets") == (0.5,)}
    assert budgeted == {"pruning", "ds_net", "slice_cascade"}
    assert all("budgets" not in spec.options for method, spec in after.items() if method not in budgeted)


def test_digits_all_holds_every_method_that_classifies():
    specs = resolve("digits_all", range(2))
    check(placed(specs, "cpu"), None)
    without = {"class_prior", "smallest", "plain", "pretrained"}  # the last needs weights
    assert {spec.method for spec in specs} >= set(METHODS.names()) - without
    ids = [spec.run_id for spec in specs]
    assert len(set(ids)) == len(ids)
    assert {spec.init_from for spec in specs} - {None} <= set(ids)


# Names, files and functions.


def test_a_json_file_of_specs(tmp_path):
    file = tmp_path / "specs.json"
    file.write_text(json.dumps([CHILD.to_json(), PARENT.to_json()]))
    assert resolve(str(file), None) == [CHILD, PARENT]
    with pytest.raises(UserError, match="names its own seeds; leave --seeds out"):
        resolve(str(file), range(2))


def test_a_function_in_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from bench.core.spec import RunSpec\n"
        f"def table(seeds=(0, 1)):\n    return [RunSpec('uniform', '{DS}', seed=seed) for seed in seeds]\n"
        f"def one():\n    return (RunSpec('uniform', '{DS}'),)\n"
        "def needy(seeds):\n    return table(seeds)\n"
    )
    assert [spec.seed for spec in resolve(f"{file}:table", None)] == [0, 1]
    assert [spec.seed for spec in resolve(f"{file}:table", range(3))] == [0, 1, 2]
    assert len(resolve(f"{file}:one", None)) == 1
    assert recipes.file_of(f"{file}:table") == str(file)
    assert recipes.file_of("quickstart") is recipes.file_of("specs.json") is None
    for call, sentence in {
        (f"{file}:one", 2): "takes no seeds; leave --seeds out",
        (f"{file}:needy", None): "needs seeds; add --seeds N",
    }.items():
        with pytest.raises(UserError, match=sentence):
            resolve(call[0], None if call[1] is None else range(call[1]))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("table = 3", "has no function 'table'"),
        ("def table(: pass", "failed: SyntaxError"),
        ("def table(): 1 / 0", "failed: ZeroDivisionError: division by zero"),
        ("def table(): return None", "must return a list of RunSpec, not NoneType None"),
        ("def table(): return [1]", r"must return a list of RunSpec, not list \[1\]"),
        ("def table(): return []", "holds no spec"),
        (
            "from bench.core.spec import TrainSpec\ndef table(): return TrainSpec(epochs=-1)",
            "train.epochs must be an integer, at least 0, not -1",
        ),
    ],
)
def test_a_function_that_gives_no_specs(tmp_path, source, sentence):
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(UserError, match=sentence):
        resolve(f"{tmp_path / 'mine.py'}:table", None)


# Devices.


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(("device", "named"), [("cuda", "cpu"), ("auto", "cuda"), (None, "cuda")])
def test_a_gpu_that_is_not_there(device, named):
    spec = replace(PARENT, device=named)
    with pytest.raises(UserError, match="torch sees none here; use --device cpu"):
        placed([spec], device)
    assert placed([spec], device, local=False)[0].device == "cuda"  # the cluster answers for itself
    assert placed([spec], "cpu")[0].device == "cpu"
    assert placed([PARENT], "auto") == placed([PARENT], "cpu") == placed([PARENT], None) == [PARENT]


@pytest.mark.usefixtures("gpu")
def test_a_gpu_that_is_there():
    parent, child = placed([PARENT, CHILD], "auto")
    assert parent.device == child.device == "cuda"
    assert child.init_from == parent.run_id != PARENT.run_id
    assert [spec.device for spec in placed([PARENT], "cpu") + placed([PARENT], None)] == ["cpu", "cpu"]


@pytest.mark.usefixtures("no_gpu")
def test_options_at_their_default_are_dropped_and_children_follow():
    parent = RunSpec("ds_net", DS, options={"random_widths": 2})
    parent, child = placed([parent, replace(CHILD, init_from=parent.run_id)], "auto")
    assert (parent, child) == (PARENT, CHILD)


# What would fail anyway.


def test_a_comparison_that_can_run():
    check(resolve("quickstart", range(1)), None)


def test_data_are_read_once_whatever_the_number_of_runs(monkeypatch):
    from bench import data

    read, load = [], data.load
    monkeypatch.setattr(data, "load", lambda *given: read.append(given) or load(*given))
    check(resolve("quickstart", range(3)), None)
    assert len(read) == 1


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (replace(PARENT, train=TrainSpec(batch_size=1000)), "batch size 1000 is larger than the 900 images"),
        (replace(PARENT, options={"routing": ((0, 7),)}), f"ds_net on {DS}: cannot route to choice 7"),
        (RunSpec("uniform", "ds_vit_micro32"), "ds_vit_micro32 cannot take images of 8 x 8"),
        (RunSpec("us_net", US, options={"widths": (0.33,)}), f"us_net on {US}: no sub-network has width 0.33"),
        (replace(PARENT, data=DataSpec("cifar10")), "cifar10 needs a data directory"),
    ],
)
def test_a_run_that_would_fail(spec, sentence):
    with pytest.raises(UserError, match=sentence):
        check([spec], None)


@pytest.mark.parametrize("change", [{"model": "ds_mobilenet_micro32"}, {"data": DataSpec(train_images=100)}])
def test_a_control_on_a_run_of_something_else(change):
    with pytest.raises(UserError, match="which has another model or other data"):
        check([PARENT, replace(CHILD, **change)], Path("unused"))
