"""What is left to do and in which order, for every executor."""

from dataclasses import replace

import pytest
from fake_runs import family

from bench.core.errors import UserError
from bench.core.spec import RunSpec
from bench.core.store import Store
from bench.executors.plan import Job, Plan, parents_first


def _start(plan: Plan, now: float = 0) -> Job:
    """The next job, which must be there."""
    job = plan.next(now)
    assert job is not None
    return job


def _finish(plan: Plan) -> list[Job]:
    """Runs a plan to its end, one job at a time."""
    order = []
    while job := plan.next(now=0):
        order.append(job)
        plan.ran(job)
    assert plan.finished
    return order


@pytest.mark.parametrize(
    ("parents", "order"),
    [
        ({"a": None, "b": None}, ["a", "b"]),
        ({"a": "b", "b": None}, ["b", "a"]),
        ({"a": "b", "b": "c", "c": None, "d": "b"}, ["c", "b", "a", "d"]),
        ({"a": "elsewhere"}, ["a"]),
        ({}, []),
    ],
)
def test_parents_first(parents: dict, order: list):
    assert parents_first(parents) == order


@pytest.mark.parametrize("parents", [{"a": "a"}, {"x": None, "a": "b", "b": "c", "c": "a"}])
def test_a_circle_is_an_error(parents: dict):
    with pytest.raises(UserError, match="start from one another in a circle: a -> "):
        parents_first(parents)


def test_order_of_a_family(tmp_path):
    control, first, second = specs = family()
    order = [
        *[(spec.run_id, phase) for spec in (second, control, first) for phase in ("train", "eval")],
        *[(spec.run_id, "profile") for spec in (second, control, first)],
    ]
    assert _finish(Plan(specs, Store(tmp_path))) == order


def test_a_child_waits_until_its_parent_is_evaluated(tmp_path):
    control, _, parent = family()
    plan = Plan([control, parent], Store(tmp_path))
    for phase in ("train", "eval"):
        job = plan.next(now=0)
        assert job == (parent.run_id, phase)
        assert plan.next(now=0) is None
        plan.ran(job)
    assert plan.next(now=0) == (control.run_id, "train")


def test_profiles_come_last(tmp_path):
    plan = Plan([RunSpec("m", "x", seed=seed) for seed in (0, 1)], Store(tmp_path))
    one, two = _start(plan), _start(plan)
    assert {one.phase, two.phase} == {"train"}
    plan.ran(one)
    one = _start(plan)
    assert one.phase == "eval"
    plan.ran(one)
    assert plan.next(0) is None  # the other still trains
    plan.ran(two)
    two = _start(plan)
    assert two.phase == "eval"
    assert plan.next(0) is None
    plan.ran(two)
    one = _start(plan)
    assert one.phase == "profile"
    assert plan.next(0) == (two.run_id, "profile")  # the executor gives each a machine of its own


def test_complete_phases_are_not_scheduled(tmp_path):
    spec, store = RunSpec("m", "x"), Store(tmp_path)
    store.write(spec.run_id, "train", {})
    plan = Plan([spec], store)
    assert [job.phase for job in _finish(plan)] == ["eval", "profile"]
    assert plan.summary().complete == (f"{spec.run_id}/train",)
    assert str(plan.summary()) == "2 ran, 1 complete already"
    for phase in ("eval", "profile"):
        store.write(spec.run_id, phase, {})
    assert Plan([spec], store).finished


def test_what_another_process_completes_meanwhile_is_not_repeated(tmp_path):
    specs, store = [RunSpec("m", "x", seed=seed) for seed in (0, 1)], Store(tmp_path)
    plan = Plan(specs, store)
    _start(plan)
    store.write(specs[1].run_id, "train", {})
    assert plan.next(now=0) == (specs[1].run_id, "eval")


def test_a_run_named_twice_counts_once(tmp_path):
    assert len(_finish(Plan([RunSpec("m", "x"), RunSpec("m", "x")], Store(tmp_path)))) == 3


def test_a_parent_that_is_nowhere(tmp_path):
    control, _, parent = family()
    store = Store(tmp_path)
    with pytest.raises(UserError, match=f"{control.run_id} starts from {parent.run_id}, which is not among"):
        Plan([control], store)
    store.write(parent.run_id, "train", {})
    with pytest.raises(UserError, match="has no complete eval phase"):
        Plan([control], store)
    store.write(parent.run_id, "eval", {})
    assert len(_finish(Plan([control], store))) == 3


def test_a_failure_skips_what_needs_it_and_nothing_else(tmp_path):
    control, other, parent = specs = family()
    grandchild = RunSpec("control", "micro", seed=7, init_from=control.run_id)
    plan = Plan([*specs, grandchild], Store(tmp_path))
    while job := plan.next(now=0):
        if job == (parent.run_id, "eval"):
            plan.failed(job, "out of luck")
        else:
            plan.ran(job)
    assert plan.finished
    summary = plan.summary()
    assert not summary.ok
    assert summary.failed == {f"{parent.run_id}/eval": "out of luck"}
    assert summary.ran == (
        f"{parent.run_id}/train", f"{other.run_id}/train", f"{other.run_id}/eval", f"{other.run_id}/profile",
    )  # fmt: skip
    assert summary.skipped[f"{control.run_id}/train"] == f"needs {parent.run_id}/eval, which was not completed"
    assert {name.partition("/")[0] for name in summary.skipped} == {parent.run_id, control.run_id, grandchild.run_id}


def test_a_child_that_is_trained_already_does_not_need_its_parent(tmp_path):
    control, _, parent = family()
    store = Store(tmp_path)
    store.write(control.run_id, "train", {})
    plan = Plan([control, parent], store)
    while job := plan.next(now=0):
        plan.failed(job, "no") if job.run_id == parent.run_id else plan.ran(job)
    assert plan.summary().ran == (f"{control.run_id}/eval", f"{control.run_id}/profile")


def test_postponed_until(tmp_path):
    one = RunSpec("m", "x")
    plan = Plan([one, replace(one, seed=1)], Store(tmp_path))
    first = _start(plan)
    plan.postpone(first, until=10)
    second = _start(plan, now=5)
    assert second.run_id != first.run_id
    assert plan.next(now=9) is None
    assert not plan.finished
    assert plan.next(now=10) == first


def test_counts(tmp_path):
    plan = Plan([RunSpec("m", "x")], Store(tmp_path))
    assert (plan.done, plan.total) == (0, 3)
    job = _start(plan)
    assert plan.done == 0
    plan.failed(job, "no")
    assert (plan.done, plan.total) == (3, 3)
    assert str(plan.summary()) == "1 failed, 2 skipped"
    assert str(Plan([], Store(tmp_path)).summary()) == "nothing to do"
