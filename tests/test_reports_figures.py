"""Figures: there, of the right kind, without a date, and drawn from what the tables say."""

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from report_store import make_store

from bench.methods import METHODS, method_of
from bench.reports import figures
from bench.reports.figures import write_accuracy_latency, write_accuracy_madds, write_routing
from bench.reports.frame import observations, points_frame
from bench.reports.latency import latency_frame
from bench.reports.runs import Run, read_runs
from bench.reports.series import series_of
from bench.reports.style import LOOKS, human, log_axis, looks_of, save, slug


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    return read_runs(make_store(tmp_path_factory.mktemp("store")).root)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures, before they become files."""
    kept: list[Figure] = []
    monkeypatch.setattr(figures, "save", lambda figure, folder, name: kept.append(figure) or [])
    return kept


def test_files(runs: list[Run], tmp_path: Path):
    points = points_frame(runs)
    written = write_accuracy_madds(tmp_path, points)
    assert [path.name for path in written] == [
        f"accuracy_madds_digits-official-1-test.{kind}" for kind in ("png", "svg", "pdf")
    ]
    png, svg, pdf = (path.read_bytes() for path in written)
    assert pdf.startswith(b"%PDF")
    assert b"Date" not in pdf
    assert b"matplotlib" not in pdf.lower()
    assert png.startswith(b"\x89PNG")
    assert b"Software" not in png
    assert b"<svg" in svg
    assert b"date>" not in svg


def test_accuracy_over_madds(runs: list[Run], drawn: list[Figure], tmp_path: Path):
    points = points_frame(runs)
    write_accuracy_madds(tmp_path, points)
    axes = drawn[0].axes[0]
    assert axes.get_xscale() == "log"
    assert "MAdds" in axes.get_xlabel()
    assert "%" in axes.get_ylabel()
    curves = {container.lines[0].get_xydata().shape[0] for container in axes.containers}  # type: ignore[attr-defined]
    assert len(axes.containers) == 5
    assert curves == {1, 4}
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert labels[0] == "ds_net (dynamic)"
    assert labels[-3:] == ["random_gate (control)", "fixed_choice (control)", "Pareto front of all rows"]


def test_accuracy_over_latency_has_a_panel_for_each_batch_size(runs: list[Run], drawn: list[Figure], tmp_path: Path):
    points, latency = points_frame(runs), latency_frame(runs)
    write_accuracy_latency(tmp_path, points, latency)
    titles = [axes.get_title(loc="left") for axes in drawn[0].axes]
    assert titles == [
        "batch 1, cpu, 1 thread, extracted",
        "batch 64, cpu, 1 thread, extracted\n(machine busy while timed)",
    ]
    assert write_accuracy_latency(tmp_path, points, latency.iloc[:0]) == []


def test_routing_shows_dynamic_points_only(runs: list[Run], drawn: list[Figure], tmp_path: Path):
    write_routing(tmp_path, points_frame(runs), observations(runs))
    (axes,) = drawn[0].axes
    assert [patch.get_height() for patch in axes.patches] == pytest.approx([20, 20, 20, 40])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2", "3"]


def test_many_routes_are_gathered():
    routing = {f"{i}-{i % 3}": 1 / 40 for i in range(40)}
    shown = figures._busiest(routing | {"99-0": 0.5})
    assert len(shown) == figures.MOST_ROUTES
    assert list(shown)[-2:] == ["99-0", "other"]
    assert sum(shown.values()) == pytest.approx(sum(routing.values()) + 0.5 - 0.5)


def test_a_long_legend_is_shown_whole(runs: list[Run], drawn: list[Figure], tmp_path: Path):
    points, latency = points_frame(runs), latency_frame(runs)
    ids = {f"more {i}": f"batch_size=30, epochs={i}, lr=0.05, warmup_epochs=2.0" for i in range(20)}
    twins = {i: {"config_id": i, "variant": variant} for i, variant in ids.items()}
    mine = {"points": points[points["method"] == "us_net"], "latency": latency[latency["method"] == "us_net"]}
    many = {name: pd.concat([frame.assign(**twin) for twin in twins.values()]) for name, frame in mine.items()}
    write_accuracy_madds(tmp_path, many["points"])
    write_accuracy_latency(tmp_path, many["points"], many["latency"])
    assert len(drawn) == 2
    for figure in drawn:
        figure.draw_without_rendering()
        (box,) = figure.legends
        assert len(box.get_texts()) >= 20
        assert all(figure.bbox.contains(*t.get_window_extent().min) for t in box.get_texts())


def test_no_text_overlaps(runs: list[Run], drawn: list[Figure], tmp_path: Path):
    """Titles, labels, ticks and legend keep clear of each other, as laid out."""
    points = points_frame(runs)
    write_accuracy_madds(tmp_path, points)
    write_accuracy_latency(tmp_path, points, latency_frame(runs))
    write_routing(tmp_path, points, observations(runs))
    for figure in drawn:
        figure.draw_without_rendering()
        texts = [t for axes in figure.axes for t in (*axes.get_xticklabels(), *axes.get_yticklabels())]
        texts += [t for axes in figure.axes for t in (axes.xaxis.label, axes.yaxis.label, axes._left_title)]  # type: ignore[attr-defined]
        texts += [t for box in figure.legends for t in box.get_texts()]
        boxes = [(t.get_text(), t.get_window_extent()) for t in texts if t.get_text() and t.get_visible()]
        for index, (name, box) in enumerate(boxes):
            for other, against in boxes[index + 1 :]:
                assert not box.overlaps(against), (name, other)


def test_methods_keep_their_look_and_differ():
    few, many = looks_of(["ds_net", "mine"]), looks_of(["ds_net", "mine", "uniform", "us_net", "yours"])
    assert few["ds_net"] == many["ds_net"]
    assert len(set(many.values())) == 5


def test_every_method_of_the_suite_has_a_look_that_no_other_figure_changes():
    """A new method needs none: until it has one, it gets the next that is free in a figure."""
    own = {*LOOKS.values()}
    rooms = {name: type(method_of(name)).__module__.split(".")[0] for name in METHODS.names()}
    assert set(LOOKS) == {name for name, room in rooms.items() if room in ("bench", "baselines")}
    assert len(own) == len(LOOKS)
    assert not own & set(looks_of([f"mine{i}" for i in range(10)]).values())


def test_configs_of_one_method_differ_in_their_marker(runs: list[Run]):
    points = points_frame(runs)
    twin = points[points["method"] == "us_net"].assign(config_id="other", variant="epochs=3")
    mine = [one for one in series_of(pd.concat([points, twin])) if one.label.startswith("us_net")]
    assert [one.label for one in mine] == ["us_net (static)", "us_net, epochs=3 (static)"]
    assert mine[0].look.color == mine[1].look.color
    assert mine[0].look.marker != mine[1].look.marker


@pytest.mark.parametrize("span", [(132e6, 565e6), (1e3, 9e8), (0.30, 0.63), (5e6, 5e6)])
def test_a_log_axis_has_readable_ticks(span: tuple[float, float], tmp_path: Path):
    figure = Figure()
    axes = figure.add_subplot()
    log_axis(axes, list(span))
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert low < span[0] <= span[1] < high
    assert 4 <= len(ticks) <= 9 or span[0] == span[1]
    save(figure, tmp_path, "axis")


def test_words():
    assert [human(v) for v in (0.25, 950.0, 132_890_144, 4.1e9)] == ["0.25", "950", "133 M", "4.1 G"]
    assert slug("digits/official@1:test") == "digits-official-1-test"


def test_a_figure_names_no_more_configs_than_can_be_read(tmp_path: Path, monkeypatch, drawn: list[Figure]):
    """Those on the front are among the named; the points of all others are there, grey."""
    monkeypatch.setattr("bench.reports.series.MOST", 2)
    points = points_frame(read_runs(make_store(tmp_path / "store", profile=False).root))
    write_accuracy_madds(tmp_path, points)
    named = {series.config_id for series in series_of(points)}
    assert named <= set(points[points["on_front"]]["config_id"])
    labels = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert len(labels) == 3
    (grey,) = [line for line in drawn[0].axes[0].lines if line.get_marker() == "."]
    assert len(grey.get_xdata()) == (~points["config_id"].isin(named)).sum() > 0  # type: ignore[arg-type]
