"""Average precision, on cases worked out by hand, and the rule of VOC that says which detections count."""

import numpy as np
import pytest

from bench.tasks.detection.average_precision import average_precision, bootstrap_interval, findings_of, mean_precision
from bench.tasks.detection.detections import FALSE, HIT, IGNORED, Detections, overlaps, verdicts
from bench.tasks.detection.measures import map_coco

A, B, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [50, 50, 60, 60]


def hits(text):
    return np.array([letter == "+" for letter in text])


@pytest.mark.parametrize(
    ("ranked", "objects", "all_points", "eleven"),
    [
        ("++", 2, 1.0, 1.0),
        ("", 2, 0.0, 0.0),
        ("--", 2, 0.0, 0.0),
        # recall 1/2 at precision 1, recall 1 at 2/3: half of 1 and half of 2/3; recalls 0 to 0.5 are six of eleven
        ("+-+", 2, 0.5 * 1 + 0.5 * 2 / 3, (6 * 1 + 5 * 2 / 3) / 11),
        # precision 1/2 at both recalls: the envelope takes the better one to come
        ("-+-+", 2, 0.5, 0.5),
        # recall ends at 1/4: three recalls (0, 0.1, 0.2) of eleven are reached
        ("+", 4, 0.25, 3 / 11),
        ("-++-", 4, 0.5 * 2 / 3, 6 / 11 * 2 / 3),
    ],
)
def test_average_precision_by_hand(ranked, objects, all_points, eleven):
    assert average_precision(hits(ranked), objects, "all_points") == pytest.approx(all_points)
    assert average_precision(hits(ranked), objects, "11_points") == pytest.approx(eleven)


def test_a_class_without_objects_has_no_precision():
    assert np.isnan(average_precision(hits("-"), 0, "all_points"))


def test_weights_stand_for_repeated_detections():
    twice = average_precision(hits("++--++"), 4, "all_points")
    assert average_precision(hits("+-+"), 4, "all_points", np.array([2.0, 2.0, 2.0])) == pytest.approx(twice)


def judged(boxes, truth, difficult=None):
    flags = np.zeros(len(truth), bool) if difficult is None else np.array(difficult)
    return verdicts(np.array(boxes, float).reshape(-1, 4), np.array(truth, float).reshape(-1, 4), flags).tolist()


def test_overlap_by_hand():
    np.testing.assert_allclose(overlaps(np.array([A]), np.array([A, B, [5, 0, 15, 10]])), [[1, 0, 1 / 3]])


def test_a_second_detection_of_one_object_is_false():
    assert judged([A, A, B], [A, B]) == [HIT, FALSE, HIT]


def test_a_detection_takes_the_object_it_overlaps_most():
    """The second one overlaps the other object by more than half too, but most of all the taken one."""
    near = [0, 0, 10, 11]
    assert judged([A, [0, 0, 10, 9]], [A, near]) == [HIT, FALSE]


def test_half_is_enough_and_less_is_not():
    assert judged([[0, 0, 10, 5]], [A]) == [HIT]
    assert judged([[0, 0, 10, 4.9]], [A]) == [FALSE]


def test_difficult_objects_count_neither_way():
    assert judged([A, A, B, FAR], [A, B], [True, False]) == [IGNORED, IGNORED, HIT, FALSE]


def test_what_is_nowhere_is_false():
    assert judged([FAR], [A]) == [FALSE]
    assert judged([FAR], []) == [FALSE]
    assert judged([], [A]) == []


def image(boxes=(), scores=(), labels=(), truth=(), true_labels=(), difficult=None):
    flags = np.zeros(len(truth), bool) if difficult is None else np.array(difficult)
    table = lambda rows: np.array(rows, float).reshape(-1, 4)
    return Detections(
        table(boxes), np.array(scores), np.array(labels, int), table(truth), np.array(true_labels, int), flags
    )


def test_detections_are_ranked_over_all_images_and_by_class():
    images = [
        image([A, B], [0.9, 0.6], [0, 0], [A, B], [0, 1]),  # the second box has the wrong class
        image([A, FAR], [0.8, 0.7], [0, 1], [A, B], [0, 0], [False, True]),
    ]
    first, second = (findings_of(images, label) for label in (0, 1))
    assert first.hits.tolist() == [True, True, False]
    assert first.objects.tolist() == [1, 1]
    assert first.precision("all_points") == 1.0
    assert second.precision("all_points") == 0.0
    assert mean_precision([first, second, findings_of(images, 2)], "all_points") == 0.5


def test_equal_scores_keep_the_order_of_the_images():
    images = [image([FAR], [0.5], [0], [A], [0]), image([A], [0.5], [0], [A], [0])]
    assert findings_of(images, 0).hits.tolist() == [False, True]


def test_f1_of_an_image():
    found = image([A, B, FAR], [0.9, 0.5, 0.2], [0, 0, 0], [A, FAR], [0, 0])
    assert found.f1(0.6) == pytest.approx(2 / 3)  # one hit, one object missed
    assert found.f1(0.3) == pytest.approx(2 / 4)
    assert found.f1(0.1) == pytest.approx(4 / 5)
    assert image().f1(0.3) == 1.0
    assert image(truth=[A], true_labels=[0]).f1(0.3) == 0.0
    assert image([A], [0.9], [0], [A], [0], [True]).f1(0.3) == 1.0


def test_coco_agrees_where_everything_or_nothing_is_found():
    pytest.importorskip("torchmetrics")
    pytest.importorskip("pycocotools")
    perfect = image([A, B], [0.9, 0.8], [0, 1], [A, B], [0, 1])
    ignored = image([A, B], [0.9, 0.8], [0, 1], [A, B], [0, 1], [False, True])
    for images, value in (([perfect], 1.0), ([perfect, ignored], 1.0), ([image([FAR], [0.9], [0], [A], [0])], 0.0)):
        measured = map_coco(np.empty(0), images, ("a", "b"))
        assert measured is not None
        assert measured.value == pytest.approx(value)
    half = image([[0, 0, 10, 7.2]], [0.9], [0], [A], [0])  # IoU 0.72: right at five of the ten thresholds
    measured = map_coco(np.empty(0), [half], ("a",))
    assert measured is not None
    assert measured.value == pytest.approx(0.5)


def some_findings(share):
    generator = np.random.default_rng(0)
    images = []
    for number in range(60):
        box = A if generator.random() < share else FAR
        images.append(image([box], [generator.random()], [0], [A], [0]))
        assert number < 60
    return [findings_of(images, 0)]


def test_the_interval_holds_the_value_and_is_repeatable():
    findings = some_findings(0.5)
    low, high = bootstrap_interval(findings, "all_points", resamples=200)
    assert low < mean_precision(findings, "all_points") < high
    assert (low, high) == bootstrap_interval(findings, "all_points", resamples=200)


def test_intervals_of_good_and_bad_detectors_are_apart():
    bad, good = (bootstrap_interval(some_findings(share), "all_points", 200) for share in (0.2, 0.9))
    assert bad[1] < good[0]


def test_a_resample_of_every_image_once_is_the_plain_value():
    (findings,) = some_findings(0.5)
    drawn = np.ones(60, int)
    for rule in ("all_points", "11_points"):
        assert findings.precision(rule, drawn) == pytest.approx(findings.precision(rule))
