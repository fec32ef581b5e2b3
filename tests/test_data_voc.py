"""The VOC layout: what is read, how it is divided, and what is refused in one sentence."""

import os
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from voc_folder import make_set, painted, write_image, write_xml

from bench.core.errors import UserError
from bench.core.spec import DataSpec
from bench.data import load
from bench.data.voc import VOC
from bench.data.voc_files import has_list, image_list, read_annotation

REAL = Path(os.environ.get("SLICEBENCH_DATA", "/nowhere")) / "VOCdevkit"


@pytest.fixture
def root(tmp_path):
    make_set(tmp_path, train=6, val=4, test=3)
    return tmp_path


@pytest.fixture
def folder(root):
    return root / "VOCdevkit" / "painted"


def loaded(root, protocol="painted", **changes):
    return load(DataSpec("voc", protocol, image_size=64, **changes), root)


def first_of(folder, part="Annotations"):
    return min((folder / part).iterdir())


def test_a_set_with_a_test_list_is_divided_as_its_authors_do(root):
    data = loaded(root)
    assert data.id == "voc/painted@1"
    assert (data.classes, data.image_size, data.channels, data.task) == (("blue", "red"), 64, 3, "detection")
    sizes = [len(split) for split in (data.train, data.calibration, data.validation, data.open_test())]
    assert sizes == [6, 2, 2, 3]
    digests = {split.digest for split in (data.train, data.calibration, data.validation, data.open_test())}
    assert len(digests) == 4
    assert data.open_test().id == "voc/painted@1:test"


def test_without_a_test_list_val_is_the_test_and_train_gives_the_rest(tmp_path):
    make_set(tmp_path, train=20, val=3)
    data = loaded(tmp_path)
    assert [len(s) for s in (data.train, data.calibration, data.validation, data.open_test())] == [16, 2, 2, 3]


def test_no_image_is_in_two_splits(tmp_path):
    make_set(tmp_path, train=20, val=3)
    data = loaded(tmp_path)
    images = np.concatenate([s.images for s in (data.train, data.calibration, data.validation, data.open_test())])
    assert len({image.tobytes() for image in images}) == 23


def test_07_and_12_are_joined_and_tested_on_07(tmp_path):
    for name, lists in (("VOC2007", {"trainval": 12, "test": 3}), ("VOC2012", {"trainval": 8})):
        folder = make_set(tmp_path, name, **lists)
        for path in (folder / "Annotations").iterdir():
            path.write_text(path.read_text().replace("blue", "cat").replace("red", "dog"))
    data = loaded(tmp_path, "official")
    assert len(data.classes) == 20
    assert [len(s) for s in (data.train, data.calibration, data.validation, data.open_test())] == [16, 2, 2, 3]


@pytest.mark.parametrize(
    ("lists", "sentence"),
    [
        (
            {"train": 6, "val": 1, "test": 2},
            "lists 6 images to train and 1 in val, so none would be left for calibration",
        ),
        ({"train": 2, "val": 3}, "lists 2 images to train, so none would be left for train"),
        ({"train": 1, "val": 3}, "lists 1 images to train, so none would be left for validation and train"),
    ],
)
def test_too_few_images_for_all_splits_are_one_sentence(tmp_path, lists, sentence):
    make_set(tmp_path, **lists)
    for train_images in (None, 1):
        with pytest.raises(UserError, match=f"^voc: painted {sentence}$"):
            loaded(tmp_path, train_images=train_images)


@pytest.mark.parametrize("lists", [{"train": 2, "val": 2, "test": 1}, {"train": 3, "val": 1}])
def test_one_image_for_each_split_is_enough(tmp_path, lists):
    make_set(tmp_path, **lists)
    data = loaded(tmp_path, train_images=1)
    assert [len(s) for s in (data.train, data.calibration, data.validation, data.open_test())] == [1, 1, 1, 1]


def test_sets_of_one_kind_can_be_joined(root):
    make_set(root, "more", train=2, val=2, test=1)
    data = loaded(root, "painted+more")
    assert [len(s) for s in (data.train, data.calibration, data.validation, data.open_test())] == [8, 3, 3, 4]


def test_a_set_without_a_test_list_holds_nothing_out_beside_one_that_has_one(root):
    make_set(root, "more", train=20, val=3)
    data = loaded(root, "painted+more")
    splits = (data.train, data.calibration, data.validation, data.open_test())
    assert [len(s) for s in splits] == [26, 2, 2, 6]
    pictures = [{image.tobytes() for image in s.images} for s in splits]
    held_out = {image.tobytes() for s in (loaded(root).calibration, loaded(root).validation) for image in s.images}
    assert pictures[1] | pictures[2] == held_out


def test_fewer_training_images_are_a_fixed_subset(root):
    few, all_ = loaded(root, train_images=2), loaded(root)
    assert few.train.id == "voc/painted@1:train[2]"
    assert np.array_equal(few.train.images, all_.train.images[:2])


def test_boxes_count_pixels_from_one_and_include_the_last(tmp_path):
    folder = make_set(tmp_path, train=1, val=1, test=1)
    path = write_xml(folder, "x", [("red", 1, 1, 96, 72), ("red", 11, 5, 20, 8)], difficult=[1])
    found = read_annotation(path)
    np.testing.assert_allclose(found.boxes * [96, 72, 96, 72], [[0, 0, 96, 72], [10, 4, 20, 8]], rtol=1e-6)
    assert found.difficult.tolist() == [False, True]


def test_boxes_follow_the_image_when_it_becomes_square(root):
    data = loaded(root, strict=True)
    for image, table in zip(data.open_test().images, data.open_test().targets, strict=True):
        for left, top, right, bottom, label, _ in table[table[:, 4] >= 0]:
            middle = image[round((top + bottom) / 2), round((left + right) / 2)].astype(int)
            assert (middle[0] > middle[2]) == (data.classes[int(label)] == "red")


def test_boxes_without_an_area_are_dropped_named_and_counted(root, folder):
    path = first_of(folder)
    write_xml(folder, path.stem, [*painted(0), ("red", 30, 30, 30, 40)])
    with pytest.warns(UserWarning, match=rf"1 boxes have no area \(1 in {path.name}\) and are left out"):
        data = loaded(root)
    assert (data.train.targets[:, :, 4] >= 0).sum() == sum(len(painted(i)) for i in range(6))
    with pytest.raises(UserError, match=f"1 boxes have no area .*{path.name}"):
        loaded(root, strict=True)


@pytest.mark.parametrize(
    ("boxes", "sentence"),
    [
        ([], "has no boxes"),
        ([("red", 10, 10, 97, 40)], r"a box \(10.0, 10.0, 97.0, 40.0\) outside its image of 96x72"),
        ([("red", -1, 10, 20, 40)], "outside its image"),
        ([("red", 30, 10, 20, 40)], "outside its image"),
    ],
)
def test_an_impossible_annotation_is_one_sentence(root, folder, boxes, sentence):
    path = write_xml(folder, first_of(folder).stem, boxes)
    with pytest.raises(UserError, match=f"{path.name}.* {sentence}") as caught:
        loaded(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("setting", [{"augmentation": "full"}, {"skip_corrupt": True}])
def test_settings_of_class_folders_are_refused_before_anything_is_read(setting):
    (name,) = setting
    with pytest.raises(UserError, match=f"data.{name} is for images in folders; voc"):
        loaded(None, **setting)


@pytest.mark.parametrize(
    ("tag", "sentence"),
    [
        ("size", "annotation has no size/width"),
        ("height", "annotation has no size/height"),
        ("bndbox", "object has no bndbox/xmin"),
        ("ymax", "object has no bndbox/ymax"),
        ("name", "object has no name"),
    ],
)
@pytest.mark.parametrize("empty", ["", r"<\1></\1>"])
def test_a_tag_that_is_missing_or_empty_is_named(root, folder, tag, sentence, empty):
    path = first_of(folder)
    path.write_text(re.sub(rf"<({tag})>.*?</{tag}>", empty, path.read_text()))
    with pytest.raises(UserError, match=rf"{path.name} is missing or damaged \({sentence}\)$"):
        loaded(root)


def test_a_class_that_training_does_not_know_is_refused(root, folder):
    name = (folder / "ImageSets" / "Main" / "test.txt").read_text().split()[0]
    write_xml(folder, name, [("green", 10, 10, 30, 40)])
    with pytest.raises(
        UserError, match=f"{name}.xml has an object of the class 'green', and the classes are blue, red"
    ):
        loaded(root)


def test_a_known_set_with_another_class_list_is_refused(tmp_path):
    make_set(tmp_path, "BCCD", train=2, val=2, test=1)
    with pytest.raises(UserError, match="an object of the class 'blue', and the classes are Platelets, RBC, WBC"):
        loaded(tmp_path, "BCCD")


def test_sets_with_other_classes_cannot_be_joined(tmp_path):
    for name in ("BCCD", "VOC2012"):
        make_set(tmp_path, name, train=2, val=2, test=1)
    with pytest.raises(UserError, match="sets with other classes cannot be joined: BCCD has Platelets"):
        loaded(tmp_path, "BCCD+VOC2012")


@pytest.mark.parametrize("where", ["train", "test"])
def test_a_truncated_photograph_is_named_before_training(root, folder, where):
    name = (folder / "ImageSets" / "Main" / f"{where}.txt").read_text().split()[0]
    path = folder / "JPEGImages" / f"{name}.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=f"the photograph .*{name}.jpg is missing or damaged"):
        loaded(root)


def test_a_photograph_of_another_size_is_refused(root, folder):
    write_image(folder, first_of(folder).stem, [], size=(72, 96))
    with pytest.raises(UserError, match=r"measures \(72, 96\), and its annotation says \(96, 72\)"):
        loaded(root)


def test_what_is_no_set_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="voc needs a data directory: --data DIR with VOCdevkit/painted"):
        loaded(None)
    with pytest.raises(UserError, match="has neither VOCdevkit/painted nor painted"):
        loaded(tmp_path)
    (tmp_path / "painted" / "JPEGImages").mkdir(parents=True)
    with pytest.raises(UserError, match="is not a VOC set, it has no Annotations"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / "ImageSets/Main/val.txt").unlink(), "val.txt is missing or not readable"),
        (lambda f: (f / "ImageSets/Main/val.txt").write_text("\n"), "val.txt lists no images"),
        (lambda f: (f / "ImageSets/Main/val.txt").write_text("a\na\n"), "val.txt lists a twice"),
        (lambda f: first_of(f).write_text("<annotation>"), "the annotation .* is missing or damaged"),
        (lambda f: first_of(f).write_text("<annotation/>"), "the annotation .* is missing or damaged"),
        (lambda f: first_of(f).unlink(), "the annotation .* is missing or damaged"),
    ],
)
def test_damaged_files_are_one_sentence(root, folder, damage, sentence):
    damage(folder)
    with pytest.raises(UserError, match=sentence) as caught:
        loaded(root)
    assert "\n" not in str(caught.value)


def test_an_image_in_two_lists_is_refused(root, folder):
    lists = folder / "ImageSets" / "Main"
    (lists / "test.txt").write_text((lists / "train.txt").read_text())
    with pytest.raises(UserError, match=r"stands in two lists .* training and test would overlap"):
        loaded(root)


# What annotation tools write.


def edited(folder, old, new) -> Path:
    path = first_of(folder)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_names_are_read_without_the_spaces_around_them(root, folder):
    edited(folder, "<name>blue</name>", "<name>\n\t\tblue\n\t</name>")
    edited(folder, "<width>96</width>", "<width> 96.0 </width>")
    assert loaded(root).classes == ("blue", "red")


def test_every_box_of_an_object_is_an_object(root, folder):
    before = read_annotation(first_of(folder))
    second = "<bndbox><xmin>3</xmin><ymin>3</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
    after = read_annotation(edited(folder, "</bndbox></object>", f"</bndbox>{second}</object>"))
    assert after.names == tuple(name for name in before.names for _ in range(2))
    np.testing.assert_allclose(after.boxes[::2], before.boxes)
    np.testing.assert_allclose(after.boxes[1] * [96, 72, 96, 72], [2, 2, 20, 20], rtol=1e-6)


def test_the_boxes_of_parts_are_not_read(root, folder):
    before = read_annotation(first_of(folder))
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox>"
    after = read_annotation(edited(folder, "<bndbox>", f"<part><name>head</name>{box}</part><bndbox>"))
    assert after.names == before.names
    assert np.array_equal(after.boxes, before.boxes)


@pytest.mark.parametrize(
    ("flag", "difficult"),
    [("<difficult/>", False), ("", False), *((f"<difficult>{text}</difficult>", value) for text, value in [
        ("Unspecified", False), ("False", False), ("0", False), (" 1 ", True), ("True", True), ("true", True)])],
)  # fmt: skip
def test_the_flag_difficult_as_tools_write_it(root, folder, flag, difficult):
    path = edited(folder, "<difficult>0</difficult>", flag)
    assert read_annotation(path).difficult.tolist() == [difficult] * len(read_annotation(path).boxes)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("<difficult>0<", "<difficult>maybe<", "object has the flag difficult 'maybe', and not 0 or 1"),
        ("<width>96<", "<width>wide<", "annotation has the size/width 'wide', which is no number"),
        ("<width>96<", "<width>1e999<", "annotation has the size/width '1e999', which is no number"),
        ("<xmin>", "<xmin>left", "bndbox has the xmin 'left"),
    ],
)
def test_what_is_no_number_is_said_in_our_words(folder, old, new, says):
    with pytest.raises(UserError, match=re.escape(says)) as caught:
        read_annotation(edited(folder, old, new))
    assert "invalid literal" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="SLICEBENCH_DATA has no VOCdevkit")
def test_the_real_sets_have_their_sizes():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        cells = load(DataSpec("voc", "BCCD", strict=False), REAL.parent)
    assert [len(s) for s in (cells.train, cells.calibration, cells.validation, cells.open_test())] == [205, 43, 44, 72]
    assert [str(w.message) for w in told] == [
        "voc: 2 boxes have no area (1 in BloodImage_00338.xml, 1 in BloodImage_00343.xml) and are left out"
    ]
    with pytest.raises(UserError, match="2 boxes have no area"):
        load(DataSpec("voc", "BCCD", strict=True), REAL.parent)
    animals = load(DataSpec("voc", "VOC2011animals"), REAL.parent)
    assert [len(s) for s in (animals.train, animals.calibration, animals.validation)] == [640, 80, 80]
    assert len(animals.open_test()) == 200


@pytest.fixture(scope="module")
def voc07():
    """VOC 2007 with its train and val lists alone; with a test list it would be divided otherwise."""
    folder = REAL / "VOC2007"
    if not folder.is_dir() or has_list(folder, "test"):
        pytest.skip("SLICEBENCH_DATA has no VOCdevkit/VOC2007 without a test list")
    data = load(DataSpec("voc", "VOC2007"), REAL.parent)
    return data, (data.train, data.calibration, data.validation, data.open_test()), folder


@pytest.mark.slow
def test_voc_2007_holds_500_of_train_out_and_tests_on_val(voc07):
    data, splits, folder = voc07
    train, val = len(image_list(folder, "train")), len(image_list(folder, "val"))
    assert [len(split) for split in splits] == [train - 500, 250, 250, val]
    assert (train, val) in ((2_500, 2_508), (2_501, 2_510)), "three photographs are missing here"
    assert (data.id, data.task, data.channels, data.image_size) == ("voc/VOC2007@1", "detection", 3, 160)


@pytest.mark.slow
def test_every_split_of_voc_2007_has_all_classes_and_difficult_objects(voc07):
    data, splits, folder = voc07
    assert data.classes == VOC
    tables = [split.targets[split.targets[:, :, 4] >= 0] for split in splits]
    for rows in tables:
        assert set(rows[:, 4]) == set(range(20))
        assert 0 < rows[:, 5].sum() < len(rows) / 3
    images = [*image_list(folder, "train"), *image_list(folder, "val")]
    flags = [flag for image in images for flag in flags_of(folder, image)]
    assert sum(len(rows) for rows in tables) == len(flags) == 15_655
    assert sum(rows[:, 5].sum() for rows in tables) == flags.count("1") == 3_054


def flags_of(folder, image):
    """The flags of an annotation by another reader: a search for the tag."""
    return re.findall(r"<difficult>\s*([01])\s*</difficult>", (folder / "Annotations" / f"{image}.xml").read_text())
