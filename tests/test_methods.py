"""The contract of every registered method: equal specs give equal points, claims are proven, nothing is changed."""

import dataclasses
import inspect
import shutil
from dataclasses import dataclass, replace

import pytest
import torch
from small_runs import (
    CPU,
    SHORT,
    Interrupted,
    Trained,
    changed,
    checkpoint_bytes,
    digits,
    interrupt_after,
    run_of,
    small_model,
    small_spec,
    state_of,
    trained_points,
)

from bench.core.errors import UserError
from bench.core.settings import parse_spec
from bench.core.spec import RunSpec
from bench.evaluation.proof import prove
from bench.methods import METHODS, SUPERNET, check_parent, completed, left_by, method_of
from bench.methods.registry import MethodEntry
from bench.models import PRESETS
from bench.points import RoutedPoint
from bench.runs.estimate import FirstImages

NAMES = METHODS.names()
OPTIONS = [(name, field.name) for name in NAMES for field in dataclasses.fields(METHODS.get(name).Options)]


@dataclass
class Case:
    """A method, trained for two steps."""

    name: str
    spec: RunSpec
    points: list
    trained: Trained
    parent: Trained | None
    steps: int

    def run(self, directory, **how):
        """The points of the same spec again, in another folder or this one, as another process would get them."""
        torch.manual_seed(1234)
        return fitted(trained_points(self.spec, directory, self.parent, **how))


def images():
    return [batch.x for batch in digits().validation.batches(40)]


def fitted(points):
    return [point.on(images()) for point in points]


def train(name, directory, parent=None, **changes):
    spec, reports = small_spec(name, parent, **changes), []
    points = fitted(trained_points(spec, directory, parent, progress=lambda *report: reports.append(report)))
    return Case(name, spec, points, Trained(spec, directory), parent, len(reports))


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    return train("ds_net", tmp_path_factory.mktemp("ds_net")).trained


# Every method on a model that it serves; one with several gates, no batch norm and two views of each image; and those
# whose front is a segment of its own, at full width.
FRONTS = [("ds_net", "ds_resnet_basic_micro8"), ("us_net", "us_resnet_basic_micro8")]
CASES = [*((name, small_model(name)) for name in NAMES), ("ds_net_pp", "ds_vit_micro8"), *FRONTS]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request, tmp_path_factory, parent):
    name, model = request.param
    needs = METHODS.get(name).needs_parent
    return train(name, tmp_path_factory.mktemp(name), parent if needs else None, model=model)


@torch.no_grad()
def answers(points):
    """All that a point says about images: outputs, routes, costs, parameters; by the point's name."""
    return {point.name: torch.cat([answer(point, x) for x in images()]) for point in points}


def answer(point, x):
    output, route = point(x)
    counts = torch.stack([point.madds(route), point.params_active(route)], dim=1)
    return torch.cat([output, route, counts], dim=1).double()


def assert_same(points, others):
    mine, theirs = answers(points), answers(others)
    assert list(mine) == list(theirs)
    for name, told in mine.items():
        assert torch.equal(told, theirs[name]), name
    assert [point.params_stored for point in points] == [point.params_stored for point in others]


@pytest.mark.parametrize("name", METHODS.names())
def test_what_is_listed_of_a_method_is_what_its_class_says(name):
    entry, method = METHODS.entry(name), METHODS.get(name)
    assert method.name == name
    if isinstance(entry, MethodEntry):  # a plugin's class is listed by itself
        said = {field.name: getattr(entry, field.name) for field in dataclasses.fields(entry)}
        assert said.pop("target") == f"{method.__module__}:{method.__name__}"
        assert said.pop("what")
        assert said == {name: getattr(method, name) for name in said}


def test_points_have_names_of_their_own(case):
    names = [point.name for point in case.points]
    assert len(set(names)) == len(names) > 0
    assert all(name and "/" not in name for name in names), "names are parts of keys in files"


def test_points_answer_for_every_image(case):
    for point in case.points:
        with torch.no_grad():
            output, route = point(images()[0])
        assert output.shape == (40, 10)
        assert output.isfinite().all()
        assert route.dtype == torch.int64
        assert (point.kind, route.shape[0]) == ("static" if route.shape[1] == 0 else "dynamic", 40)
        for counts in (point.madds(route), point.params_active(route)):
            assert (counts.dtype, counts.shape) == (torch.int64, (40,))
            assert (counts > 0).all()
        assert point.params_stored >= int(point.params_active(route).max())
        assert {"view", "extracted"} & point.executables().keys()


@torch.no_grad()
def test_all_forms_of_a_point_agree(case):
    for point in case.points:
        x = images()[0]
        expected = point(x).output
        for form, module in point.executables().items():
            assert (module(x) - expected).abs().max() <= 1e-5 * expected.abs().max(), form


def test_claims_are_proven(case):
    split = FirstImages(digits().validation, 12)
    for point in case.points:
        proof = prove(point.on([split.batch.x]), split, CPU)
        assert proof["networks"]


def test_an_equal_spec_gives_equal_points(case, tmp_path):
    """Whatever was random before, and without the other's files."""
    assert_same(case.points, case.run(tmp_path))
    if case.steps:
        assert checkpoint_bytes(tmp_path) == checkpoint_bytes(case.trained.directory)


def test_a_finished_run_is_loaded_not_trained(case):
    reports = []
    before = checkpoint_bytes(case.trained.directory) if case.steps else {}
    loaded = case.run(case.trained.directory, progress=lambda *report: reports.append(report))
    assert reports == []
    assert_same(case.points, loaded)
    assert not case.steps or checkpoint_bytes(case.trained.directory) == before


def test_points_only_read(case):
    """Not a byte and not a time of any file changes, in the run's folder or its parent's."""
    folders = [run.directory for run in (case.trained, case.parent) if run is not None]
    torch.manual_seed(1234)
    before = [seen(folder) for folder in folders]
    points = method_of(case.name).points(run_of(case.spec, case.trained.directory, case.parent))
    assert [seen(folder) for folder in folders] == before
    assert_same(case.points, fitted(points))


def seen(folder):
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in folder.rglob("*")}


def test_a_missing_checkpoint_is_an_error_and_never_trained_again(case, tmp_path):
    """Each in turn; one that was a step on the way to others may be gone."""
    owner = case.parent or case.trained
    if not (owner.directory / "checkpoints").exists():
        pytest.skip("this method leaves nothing")
    copy = Trained(owner.spec, tmp_path / "copy")
    shutil.copytree(owner.directory, copy.directory)
    if case.parent:
        shutil.copytree(case.trained.directory, tmp_path / "own")
    run = run_of(case.spec, tmp_path / "own", copy) if case.parent else run_of(case.spec, copy.directory)
    refusals = []
    for file in sorted((copy.directory / "checkpoints").iterdir()):
        file.rename(tmp_path / file.name)
        refusal = refusal_of(case.name, run)
        assert refusal is None or f"no checkpoint {file.name} in {copy.directory}" in refusal
        assert not file.exists()
        (tmp_path / file.name).rename(file)
        refusals.append(refusal)
    assert any(refusals)
    shutil.rmtree(copy.directory)
    assert refusal_of(case.name, run) is not None
    assert not copy.directory.exists()


def refusal_of(name, run):
    try:
        method_of(name).points(run)
    except UserError as error:
        return str(error)
    return None


def test_an_interrupted_run_ends_in_the_same_bytes(case, tmp_path):
    if not case.steps:
        pytest.skip("this method trains nothing")
    for reached in (1 + case.steps // 2, 1):
        with pytest.raises(Interrupted):
            case.run(tmp_path, progress=interrupt_after(reached), checkpoint_s=0.0)
    assert_same(case.points, case.run(tmp_path, checkpoint_s=0.0))
    assert checkpoint_bytes(tmp_path) == checkpoint_bytes(case.trained.directory)


def test_a_supernet_is_left_exactly_where_a_method_says_so(case):
    """Else a run that starts from it would fail after its parent has trained."""
    left = (case.trained.directory / "checkpoints" / f"{SUPERNET}.safetensors").exists()
    assert left == (METHODS.get(case.name).leaves == "supernet")
    if left:
        state = left_by(run_of(case.spec, case.trained.directory), SUPERNET, "supernet")
        assert state.keys() == PRESETS.get(case.spec.model).build().state_dict().keys()


def test_a_run_takes_whole_epochs(case):
    trains_nothing = METHODS.get(case.name).needs_parent or METHODS.get(case.name).kind == "control"
    assert case.steps >= 2 or trains_nothing or case.name == "pretrained"
    assert case.steps % 2 == 0, "128 images are two steps an epoch"


def test_nothing_is_changed_by_a_run(case, tmp_path):
    """Not the spec, not the lists in it, nor what the points stand on, however often they are used."""
    before, said = case.spec.to_json(), repr(case.spec)
    networks = [module for point in case.points for module in point.executables().values()]
    states = [state_of(module) for module in networks]
    routings = [point.routing for point in case.points if isinstance(point, RoutedPoint)]
    answers(case.points)
    for point in case.points:
        prove(point.on(images()[:1]), FirstImages(digits().validation, 4), CPU)
    assert (case.spec.to_json(), repr(case.spec)) == (before, said)
    assert all(not changed(state, module) for state, module in zip(states, networks, strict=True))
    assert routings == [point.routing for point in case.points if isinstance(point, RoutedPoint)]
    hooked = [m for n in networks for m in n.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooked == []


def test_the_seed_moves_the_weights(case, tmp_path):
    if not case.steps:
        pytest.skip("this method trains nothing")
    spec = replace(case.spec, seed=case.spec.seed + 1)
    points = trained_points(spec, tmp_path)
    mine, other = case.points[0], points[0]
    with torch.no_grad():
        assert not torch.equal(mine(images()[0]).output, other(images()[0]).output)


BUDGETED = [
    name for name in NAMES if "budgets" in {field.name for field in dataclasses.fields(METHODS.get(name).Options)}
]


@pytest.mark.slow
@pytest.mark.parametrize("name", BUDGETED)
def test_a_larger_budget_never_costs_less(name, parent, tmp_path):
    """Static: the claim. Dynamic: the mean over images and the most that any of them costs, both at most those of the
    larger budget. A budget is not an order for accuracy."""
    one_space = {"routing": ()} if name == "ds_net" else {}
    options = {**SHORT.get(name, {}), **one_space, "budgets": [0.5, 0.7, 0.9]}
    spec = small_spec(name, parent, options=options)
    points = trained_points(spec, tmp_path, parent if METHODS.get(name).needs_parent else None)
    named = [point for point in points if point.name.endswith(("0.5", "0.7", "0.9"))]
    assert len(named) == 3
    with torch.no_grad():
        costs = [torch.cat([point.madds(point(x).route) for x in images()]).double() for point in named]
    means, most = [cost.mean().item() for cost in costs], [cost.max().item() for cost in costs]
    assert means == sorted(means)
    assert most == sorted(most)
    if METHODS.get(name).kind != "dynamic":  # two steps may leave no two images apart
        assert means[0] < means[-1]


# What a method says about itself, and what it accepts.


@pytest.mark.parametrize("name", NAMES)
def test_a_method_introduces_itself(name):
    method = METHODS.get(name)
    assert method.name == name
    assert method.kind in ("dynamic", "slimmable", "static", "control")
    assert method.paper
    assert method.version >= 1
    assert inspect.getdoc(method)
    assert dataclasses.is_dataclass(method.Options)
    assert method.Options.__dataclass_params__.frozen  # type: ignore[attr-defined]
    presets = [PRESETS.get(model) for model in (*PRESETS.names(), "timm:test_vit")]
    assert set(method.trains) <= {preset.trains_as for preset in presets}
    assert set(method.families) <= {preset.family.name for preset in presets}
    assert any(method_of(name).serves(PRESETS.get(model)) for model in PRESETS.names())


def raw_spec(name, **options):
    needs = METHODS.get(name).needs_parent
    return RunSpec(name, small_model(name), options=options, init_from="ds_net-0123456789ab" if needs else None)


@pytest.mark.parametrize("name", NAMES)
def test_explicit_defaults_name_the_same_run(name):
    """A default that is written out, or an option added later, must not make another run of it."""
    defaults = dataclasses.asdict(METHODS.get(name).Options())
    spec = completed(raw_spec(name, **defaults))
    bare = completed(raw_spec(name))
    assert spec.options == {}
    assert spec == bare
    assert spec.run_id == bare.run_id
    assert completed(spec) == spec, "completing is done once"
    assert parse_spec(spec.to_json()) == spec


@pytest.mark.parametrize("name", NAMES)
def test_completion_keeps_what_differs_and_fills_the_version_in(name):
    method, options = METHODS.get(name), SHORT.get(name, {})
    spec = completed(raw_spec(name, **options))
    assert spec.options.keys() == options.keys()
    assert spec.method_version == method.version
    assert method_of(name).options(spec) == method.Options(**raw_spec(name, **options).options)


def test_a_raised_version_is_another_run(monkeypatch):
    first = completed(raw_spec("uniform"))
    monkeypatch.setattr(METHODS.get("uniform"), "version", METHODS.get("uniform").version + 1)
    assert completed(raw_spec("uniform")).run_id != first.run_id


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_a_misspelt_option_gets_the_nearest_name(name, option):
    with pytest.raises(UserError, match=f"unknown option of {name} '{option}x'.*{option}") as caught:
        completed(raw_spec(name, **{f"{option}x": 1}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_an_option_that_is_like_no_other_is_refused_too(name):
    with pytest.raises(UserError, match=f"unknown option of {name} 'qqq'"):
        completed(raw_spec(name, qqq=1))


@pytest.mark.parametrize("value", [{"a": 1}, [{"a": 1}], "no such word", None])
@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_a_wrong_type_is_one_sentence(name, option, value):
    if value is None and getattr(METHODS.get(name).Options(), option) is None:
        pytest.skip("null is its default")
    with pytest.raises(UserError, match=rf"options\.{option} of {name} must be .*, not ") as caught:
        completed(raw_spec(name, **{option: value}))
    assert "\n" not in str(caught.value)
    assert "typing" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ds_net", {"random_widths": 2.5}),
        ("ds_net", {"random_widths": True}),
        ("ds_net", {"ema": True}),
        ("ds_net", {"recalibrate": 1}),
        ("ds_net", {"routing": [0, 1]}),
        ("ds_net", {"routing": [[0, 1.5]]}),
        ("ds_net", {"distillation": "inplce"}),
        ("us_net", {"widths": [0.5, "1.0"]}),
    ],
)
def test_nearly_right_types_are_refused(name, options):
    with pytest.raises(UserError, match=f"options.{next(iter(options))} of {name} must be "):
        completed(raw_spec(name, **options))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"calibration_images": 0}, "calibration_images of ds_net must be at least 1, not 0"),
        ({"random_widths": -1}, "random_widths of ds_net must be at least 0, not -1"),
        ({"ema": 1.5}, "ema of ds_net must be at most 1, not 1.5"),
        ({"gate_epochs": -1}, "gate_epochs of ds_net must be at least 0, not -1"),
        ({"sgs_smoothing": 1.0}, "sgs_smoothing of ds_net must be below 1, not 1.0"),
        ({"gate_ema": -0.1}, "gate_ema of ds_net must be at least 0, not -0.1"),
        ({"gate_ema": 1}, "gate_ema of ds_net must be below 1, not 1"),
    ],
)
def test_a_number_out_of_range_is_one_sentence(options, sentence):
    with pytest.raises(UserError, match=f"^options.{sentence}$"):
        completed(raw_spec("ds_net", **options))


def test_a_whole_number_is_a_number():
    assert completed(raw_spec("ds_net", gate_lr=1)).options == {"gate_lr": 1}
    assert completed(raw_spec("ds_net", task_weight=1)).options == {}


def test_unknown_names_get_the_nearest():
    with pytest.raises(UserError, match="unknown method 'ds_nett'; did you mean 'ds_net'"):
        completed(RunSpec("ds_nett", "ds_mobilenet_micro8"))
    with pytest.raises(UserError, match="unknown model 'ds_mobilenet_micro9'; did you mean 'ds_mobilenet_micro8'"):
        completed(RunSpec("uniform", "ds_mobilenet_micro9"))


@pytest.mark.parametrize("name", [name for name in NAMES if METHODS.get(name).trains])
def test_a_family_that_a_method_does_not_serve_is_refused(name):
    models = [*PRESETS.names(), "timm:resnet18"]
    other = next(model for model in models if not method_of(name).serves(PRESETS.get(model)))
    with pytest.raises(UserError, match=f"{name} serves .*, not {other}"):
        completed(replace(raw_spec(name), model=other))


@pytest.mark.parametrize("name", [name for name in NAMES if METHODS.get(name).needs_parent])
def test_a_method_that_needs_a_parent_says_so(name):
    with pytest.raises(UserError, match=f"{name} works on another run's checkpoint; name it with init_from"):
        completed(RunSpec(name, small_model(name)))


@pytest.mark.parametrize("name", [name for name in NAMES if METHODS.get(name).leaves == "nothing"])
def test_nothing_starts_from_a_run_that_leaves_nothing(name):
    parent = completed(raw_spec(name))
    child = RunSpec("us_net", "us_mobilenet_micro8", init_from=parent.run_id)
    with pytest.raises(UserError, match=f"a run of {name} leaves no network to train on"):
        check_parent(child, parent)


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("ds_net", {"routing": [[0, 4]]}, "cannot route to choice 4: .* choices 0 to 3"),
        ("ds_net", {"routing": [[]]}, "cannot route to choice none"),
        ("ds_net", {"routing": [[[0], [1]]]}, "lists options for each gate: 1, not 2"),
        ("ds_net", {"routing": [[0, [1]]]}, "mixes options and lists of options"),
        ("ds_net", {"calibration_images": 9, "recalibrate": False}, "says nothing where recalibrate is false"),
        ("ds_net", {"routing": [[0, 1], [1, 3], [0, 1]]}, "each routing space once, and dynamic0-1 is there twice"),
        ("ds_net", {"routing": [[0, 1], [[0, 1]]]}, "each routing space once, and dynamic0-1 is there twice"),
        ("us_net", {"widths": [0.3, 0.26]}, "no sub-network has width 0.26"),
        ("us_net", {"widths": []}, "widths must be at least one width, each named once"),
        ("us_net", {"widths": [0.5, 0.5000001]}, "widths must be at least one width, each named once"),
        ("s_net", {"widths": []}, "no sub-network has width none"),
        ("uniform", {"choices": [0, 9]}, "no sub-network 9: this space has choices 0 to 3"),
        ("uniform", {"choices": [0, 0]}, r"choices must name each sub-network once, not \[0, 0\]"),
    ],
)
def test_what_no_sub_network_has_is_refused_before_any_work(name, options, sentence):
    spec = completed(raw_spec(name, **options))
    with pytest.raises(UserError, match=sentence) as caught:
        method_of(name).check(spec, PRESETS.get(spec.model).build(), 8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", ["s_mobilenet_micro8", "s_resnet_micro8"])
def test_channels_that_cannot_change_places_are_not_ordered(model):
    for order in ("l1", "random"):
        spec = completed(RunSpec("sliced_order", model, options={"order": order}))
        with pytest.raises(UserError, match="switchable batch norm has scales for each width"):
            method_of("sliced_order").check(spec, PRESETS.get(model).build(), 8)
    spec = completed(RunSpec("sliced_order", model, options={"order": "none"}))
    method_of("sliced_order").check(spec, PRESETS.get(model).build(), 8)


def test_a_model_without_a_gate_cannot_be_routed():
    spec = replace(raw_spec("ds_net"), model="us_mobilenet_micro8")
    with pytest.raises(UserError, match="this model has no gate"):
        method_of("ds_net").check(spec, PRESETS.get(spec.model).build(), 8)
