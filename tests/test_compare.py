"""`slicebench compare` on the committed digits: its answers worked out a second time from the records."""

import json
import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from report_store import make_store
from safetensors.numpy import load_file

from bench.core.errors import UserError
from bench.reports.compare import Side, comparison, side
from bench.statistics.crossed import compare
from bench.statistics.tradeoff import cost_to_reach

DIGITS = Path(__file__).parent.parent / "results" / "campaigns" / "digits"


def records(method: str, seed: int) -> dict[str, tuple[np.ndarray, float, float]]:
    """Point -> scores of the images, mean MAdds, ms at batch 1 extracted; straight from the files."""
    for folder in (DIGITS / "runs").glob(f"{method}-*"):
        if json.loads((folder / "spec.json").read_text())["seed"] != seed:
            continue
        profile = json.loads((folder / "profile.json").read_text())["records"]
        arrays = load_file(folder / "per_image.safetensors")
        found = {}
        for record in json.loads((folder / "eval.json").read_text())["records"]:
            if record["metric"] == "madds":
                point = record["point"]
                (ms,) = [
                    each["value"]
                    for each in profile
                    if (each["point"], each["metric"], each["form"]) == (point, "latency_ms", "extracted")
                    and each["details"]["batch"] == 1
                ]
                found[point] = (arrays[f"{point}/score"].astype(float), record["value"], ms)
        return found
    raise AssertionError(f"no run of {method} with seed {seed}")


def row(rows: list[dict], what: str, at: float) -> dict:
    return min((each for each in rows if each["what"] == what), key=lambda each: abs(each["at"] - at))


def mixed(low: tuple, high: tuple, budget: float) -> np.ndarray:
    """The scores of images of which a share runs the one and the rest the other, at this mean cost."""
    share = (budget - low[1]) / (high[1] - low[1])
    return (1 - share) * low[0] + share * high[0]


def test_is_pruning_worse_than_training_small_ones_at_its_quarter():
    """At the pruned network's 47,320 MAdds, against the mixture of the two trained ones around it."""
    sentence, rows = comparison(side("pruning", DIGITS), side("uniform", DIGITS))
    pruned = {seed: records("pruning", seed)["l1@0.25"] for seed in range(3)}
    trained = {seed: records("uniform", seed) for seed in range(3)}
    mixture = {seed: mixed(one["uniform0"], one["uniform1"], 47_320) for seed, one in trained.items()}
    expected = compare({seed: one[0] for seed, one in pruned.items()}, mixture)
    assert expected is not None
    line = row(rows, "equal MAdds/image", 47_320)
    assert line["at"] == 47_320
    for name in ("difference", "low", "high"):
        assert line[name] == pytest.approx(getattr(expected, name), abs=1e-9)
    assert line["high"] < 0, "surely worse"
    assert sentence.startswith("pruning against uniform, 3 seeds: ")


def test_does_a_slimmable_network_save_multiply_adds_against_networks_trained_alone():
    """The MAdds that each needs for the accuracy that `uniform` has at 25,920: those of its cheapest, or a mixture."""
    _, rows = comparison(side("us_net", DIGITS), side("uniform", DIGITS))
    level = np.mean([records("uniform", seed)["uniform0"][0].mean() for seed in range(3)])
    ratios = []
    for seed in range(3):
        spent = []
        for method in ("us_net", "uniform"):
            points = [(madds, float(score.mean())) for score, madds, _ in records(method, seed).values()]
            spent.append(cheapest(points, float(level)))
        ratios.append(math.log(spent[0] / spent[1]))
    line = row(rows, "equal accuracy: MAdds saved", level)
    assert line["difference"] == pytest.approx(1 - math.exp(np.mean(ratios)), abs=1e-6)
    half = 4.302653 * np.std(ratios, ddof=1) / math.sqrt(3)
    assert line["low"] == pytest.approx(1 - math.exp(np.mean(ratios) + half), abs=1e-5)
    assert line["low"] < 0 < line["high"], "three seeds do not say"


def cheapest(points: list[tuple[float, float]], level: float) -> float:
    """The least cost of a point, or of a mixture of two, that has this score."""
    costs = [cost for cost, score in points if score >= level]
    for low, high in permutations(points, 2):
        if low[1] < level < high[1]:
            costs.append(low[0] + (level - low[1]) / (high[1] - low[1]) * (high[0] - low[0]))
    return min(costs)


def test_which_is_better_at_equal_latency():
    """Where both can pay for their best point, that is what is compared."""
    _, rows = comparison(side("us_net", DIGITS), side("uniform", DIGITS))
    what = "equal ms (cpu, extracted, batch 1, 1 thread)"
    line = [each for each in rows if each["what"] == what][-1]
    best = [
        {seed: max(records(method, seed).values(), key=lambda point: point[0].mean())[0] for seed in range(3)}
        for method in ("us_net", "uniform")
    ]
    expected = compare(*best)
    assert expected is not None
    assert line["difference"] == pytest.approx(expected.difference)
    assert line["first"] == pytest.approx(np.mean([score.mean() for score in best[0].values()]))


def test_a_word_stands_for_one_thing():
    with pytest.raises(UserError, match=r"fixed_choice was run in 2 ways; name one by its config_id: .*of ds_net"):
        side("fixed_choice", DIGITS)
    with pytest.raises(UserError, match=r"'us_nett'.*us_net"):
        side("us_nett", DIGITS)
    run = side(next(path.name for path in (DIGITS / "runs").glob("us_net-*")), DIGITS)
    assert len(run.points) == 1
    with pytest.raises(UserError, match="share no seed"):
        comparison(run, run._replace(points={7: {}}))
    with pytest.raises(UserError, match="not judged on the same images"):
        comparison(run, run._replace(digests=frozenset({"others"})))


def test_two_result_directories(tmp_path: Path):
    for name, seeds in (("a", 2), ("b", 3)):
        make_store(tmp_path / name, seeds=seeds, profile=False)
    first, second = (side(str(tmp_path / name), tmp_path) for name in ("a", "b"))
    assert isinstance(first, Side)
    sentence, rows = comparison(first, second)
    assert {line["seeds"] for line in rows} == {2}
    assert all(line["difference"] == 0 for line in rows if line["first"] is not None), "the same runs"
    assert "no difference shown" in sentence


def test_the_cost_to_reach_a_score():
    costs, scores = [1.0, 2.0, 4.0], [0.2, 0.6, 0.8]
    assert cost_to_reach(costs, scores, 0.4) == pytest.approx(1.5)
    assert cost_to_reach(costs, scores, 0.1) == 1.0
    assert math.isnan(cost_to_reach(costs, scores, 0.9))
    assert cost_to_reach([1, 2, 3], [0.0, 0.1, 1.0], 0.5) == pytest.approx(2.0), "past a point below the hull"
