"""`folder`: a user's own images, `train/<class>/*` with `val` or `test` beside it, in any folder of the data directory.

`--set data.name=folder --set data.folder=NAME` reads DATA/NAME. The final split is `test` where there is one, and
otherwise `val`. Validation images are those of `val` where `test` is there too, and otherwise held out of `train`;
calibration images are always held out of `train` (`class_folders.py`). `val` may be called `valid` or `validation`.

Every image is decoded once before anything trains, so that one report counts all that cannot be read.
"""

from pathlib import Path

from bench.core.errors import NotAtHand, UserError, unknown
from bench.core.spec import DataSpec
from bench.data.class_folders import assemble
from bench.data.dataset import Dataset, refuse_strict
from bench.data.imagenet import read_part
from bench.data.transforms import pipeline

VERSION = 1
VALIDATION = ("val", "valid", "validation")
EDGE, CROP, AUGMENTATION = 224, 0.875, "light"  # unless data.image_size, data.augmentation say otherwise


def load_folder(spec: DataSpec, root: Path | None = None) -> Dataset:
    """Your own images in class folders, `train/<class>/*` and `val` or `test`, below the data directory.

    Raises:
        UserError: another protocol than `official`; data.strict; no such folder, no `train`, neither `val` nor `test`;
            and as `class_folders.assemble`.
    """
    if spec.protocol != "official":
        raise unknown("protocol of folder", spec.protocol, ["official"])
    refuse_strict(spec)
    pixels = pipeline(spec.image_size or EDGE, spec.augmentation or AUGMENTATION, CROP)
    folder = find(spec.folder, root)
    validations = [folder / name for name in VALIDATION if (folder / name).is_dir()]
    if len(validations) > 1:
        raise UserError(f"folder: {folder} has {' and '.join(path.name for path in validations)}; keep one of them")
    finals = [folder / "test"] if (folder / "test").is_dir() else validations
    if not finals:
        raise UserError(f"folder: {folder} has neither test nor val, so nothing to judge a network by")
    final, between = finals[0], validations if finals != validations else []
    train, test, *validation = (read_part("folder", p, decode_all=True) for p in (folder / "train", final, *between))
    key = ("split", "folder", VERSION)
    return assemble("folder", VERSION, folder.name, spec, pixels, key, train, test, *validation)


def find(name: str | None, root: Path | None) -> Path:
    """The folder that a spec names. Raises UserError, naming what there is, where it has no `train`."""
    if root is None:
        raise NotAtHand("folder needs a data directory: --data DIR with NAME/train/<class>/ in it")
    if not root.is_dir():
        raise NotAtHand(f"folder: {root} does not exist")
    present = sorted(path.name for path in root.iterdir() if (path / "train").is_dir())
    if name is None or name not in present:
        wanted = "needs data.folder=NAME" if name is None else f"found no {name}/train in {root}"
        raise UserError(f"folder {wanted}; {root} has {', '.join(present) or 'no folder with train in it'}")
    return root / name
