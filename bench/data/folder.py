"""A split that is decoded from image files while it is used, here or in worker processes.

$SLICEBENCH_WORKERS says how many worker processes decode (0, the default: none). It changes no result, because what is
drawn for a view of an image depends on (seed, epoch, image, view) alone, so it is no part of a run's description. Each
worker makes whole batches. Memory grows with the number of images by their index alone.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from bench.core.errors import UserError
from bench.core.image_input import ImageInput
from bench.data.dataset import Batch, Epoch, Split
from bench.data.folder_index import Index, remembered
from bench.data.image_file import decode
from bench.data.splits import keyed_integers, keyed_order
from bench.data.transforms import Pipeline, random_state_kept, seed_all

SHARED_MEMORY = "/dev/shm"  # where torch puts what a worker has made


class FolderSplit(Split):
    """Classified images in files. rows: (N,) which images of the index, in their order.

    own_size: that of the data, None where that is the pipeline's.
    """

    def __init__(
        self, name: str, id: str, index: Index, rows: np.ndarray, pipeline: Pipeline, own_size: int | None = None
    ):
        super().__init__(name, id)
        self.index, self.rows, self.pipeline, self.own_size = index, rows, pipeline, own_size

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def targets(self) -> np.ndarray:
        """(N,) class indices."""
        return self.index.labels[self.rows]

    def augmented_with(self, randaugment: str | None, erasing: float | None) -> "FolderSplit":
        """See `Split.augmented_with`."""
        pixels = self.pipeline.with_augmentation(randaugment, erasing)
        return FolderSplit(self.name, self.id, self.index, self.rows, pixels, self.own_size)

    def made_for(self, images: ImageInput, size: int) -> "FolderSplit":
        """See `Split.made_for`. Raises `UserError` for a network that wants other than three channels."""
        if len(images.mean) != 3:
            raise UserError(f"{self.id} has colours, and the network wants images of {len(images.mean)} channels")
        pixels, own_size = self.pipeline.made_for(images, size), self.own_size or self.pipeline.size
        return FolderSplit(self.name, self.id, self.index, self.rows, pixels, own_size)

    @cached_property
    def digest(self) -> str:
        """sha256 over the size that is evaluated and, image by image, the label, the length and bytes of the file.

        Remembered while the name, size and times of every file of the folder are the same."""
        if self.index.stamp is None:
            return self._digest_of_files()
        rows = hashlib.sha256(self.rows.astype("<i8").tobytes()).hexdigest()
        return remembered(
            f"split-{self.own_size or self.pipeline.size}-{rows[:32]}-{self.index.stamp}", self._digest_of_files
        )

    def _digest_of_files(self) -> str:
        sha = hashlib.sha256(f"{self.own_size or self.pipeline.size}".encode())
        for row, target in zip(self.rows.tolist(), self.targets.tolist(), strict=True):
            path = self.index.path(row)
            try:
                content = Path(path).read_bytes()
            except OSError as error:
                raise UserError(f"{self.id}: {path} cannot be read: {error.strerror}") from error
            sha.update(f"{target}/{len(content)}/".encode())
            sha.update(content)
        return sha.hexdigest()

    def batches(self, batch_size: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """See `Split.batches`."""
        return self.share(batch_size, 0, 1, device)

    def share(self, batch_size: int, rank: int, processes: int, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """See `Split.share`; the images of the other batches are not decoded."""
        self._require_positive(batch_size)
        work = _Work(self, np.arange(len(self)), batch_size, 1, ())
        return _run(work, range(rank, -(-len(self) // batch_size), processes), torch.device(device))

    def _train_batches(self, asked: Epoch) -> Iterator[Batch]:
        views, count = range(asked.views if asked.augment else 0), len(self)
        keys = tuple(keyed_integers(count, "augment", *asked.key, view) for view in views)
        order = keyed_order(count, "order", *asked.key)
        work = _Work(self, order, asked.batch_size, asked.views, keys, asked.part)
        return _run(work, asked.steps, torch.device(asked.device))

    def images(self, members: Sequence[int]) -> list[Image.Image]:
        """Decoded images. Raises UserError that names the first of those that cannot be, and counts them."""
        decoded, wrong = [], []
        for member in members:
            path = self.index.path(int(self.rows[member]))
            try:
                decoded.append(decode(path))
            except Exception as error:  # a damaged image can fail in any way
                wrong.append(f"{path} ({type(error).__name__})")
        if wrong:
            others = f" and {len(wrong) - 1} others of its batch" if len(wrong) > 1 else ""
            raise UserError(
                f"{self.id}: {wrong[0]}{others} cannot be decoded; put the file right, or leave corrupt images out "
                "with data.skip_corrupt=true"
            )
        return decoded


@dataclass(frozen=True)
class _Work(Dataset):
    """All batches of one pass, each made when it is asked for: a pure function of its number.

    order: (N,) positions in the split. keys: for each view (N,) 64-bit seeds by position; none: not augmented.
    """

    split: FolderSplit
    order: np.ndarray
    batch_size: int
    views: int
    keys: tuple[np.ndarray, ...]
    part: tuple[int, int] = (0, 1)

    @property
    def batch_bytes(self) -> int:
        """What a batch of this process takes: pixels as float32, and targets as int64."""
        return -(-self.batch_size // self.part[1]) * (self.views * 3 * self.split.pipeline.size**2 * 4 + 8)

    def __getitem__(self, number: int) -> Batch | UserError:
        """A batch, or what is wrong with it: an error raised in a worker would reach its user as a traceback."""
        rank, processes = self.part
        members = self.order[number * self.batch_size : (number + 1) * self.batch_size][rank::processes]
        try:
            images = self.split.images(members.tolist())
            if get_worker_info() is not None:  # others may have filled it since the start
                require_shared_memory(self.batch_bytes, 1)
        except UserError as error:
            return error
        with random_state_kept():
            if self.keys:
                views = tuple(augmented(self.split.pipeline, images, keys[members]) for keys in self.keys)
            else:
                views = (clean(self.split.pipeline, images),) * self.views
        return Batch(views, torch.from_numpy(self.split.index.labels[self.split.rows[members]].astype(np.int64)))


def clean(pipeline: Pipeline, images: Sequence[Image.Image]) -> Tensor:
    """Images as they are evaluated: (B, 3, size, size) float32, normalised, channels_last."""
    pixels = torch.empty(len(images), pipeline.size, pipeline.size, 3, dtype=torch.uint8)
    for place, image in zip(pixels, images, strict=True):
        place.copy_(pipeline.clean(image).permute(1, 2, 0))
    return pipeline.normalisation(pixels)


def augmented(pipeline: Pipeline, images: Sequence[Image.Image], keys: np.ndarray) -> Tensor:
    """Images as they are trained on, each a function of its key (B,): (B, 3, size, size) float32, channels_last.

    Seeds the process's generators and leaves them so.
    """
    pixels = torch.empty(len(images), pipeline.size, pipeline.size, 3, dtype=torch.uint8)
    for place, image, key in zip(pixels, images, keys.tolist(), strict=True):
        seed_all(key)
        place.copy_(pipeline.augmented(image).permute(1, 2, 0))
    x = pipeline.normalisation(pixels)
    if pipeline.erase is not None:
        for place, key in zip(x, keys.tolist(), strict=True):
            seed_all(key ^ 1)  # not what the image's crop was drawn with
            pipeline.erase(place)
    return x


def _run(work: _Work, numbers: range, device: torch.device) -> Iterator[Batch]:
    for made in _made(work, numbers, pin=device.type == "cuda"):
        if isinstance(made, UserError):
            raise made
        yield Batch(
            tuple(view.to(device, non_blocking=True) for view in made.views),
            made.targets.to(device, non_blocking=True),
        )


def _made(work: _Work, numbers: range, pin: bool) -> Iterator[Batch | UserError]:
    """The batches with these numbers, made here or by workers. No global random state is touched."""
    processes = min(workers(), len(numbers))
    if processes == 0:
        return map(work.__getitem__, numbers)
    require_shared_memory(work.batch_bytes * min(len(numbers), 2 * processes + 2), processes)
    return iter(
        DataLoader(
            work,
            batch_size=None,
            sampler=numbers,
            num_workers=processes,
            collate_fn=_as_it_is,  # type: ignore[arg-type]
            pin_memory=pin,
            generator=torch.Generator(),
        )
    )


def _as_it_is(made: Batch | UserError) -> Batch | UserError:
    return made


def require_shared_memory(needed: int, processes: int) -> None:
    """Raises UserError where workers have less shared memory than the batches on their way take: torch would wait for
    ever. `needed`: bytes of those batches, two of each worker and two that are in use."""
    if not os.path.isdir(SHARED_MEMORY):  # another system has another limit
        return
    status = os.statvfs(SHARED_MEMORY)
    free = status.f_bavail * status.f_frsize
    if needed > free:
        raise UserError(
            f"{SHARED_MEMORY} has {free / 2**20:,.0f} MB free, and the batches of {processes} decoding "
            f"{'worker' if processes == 1 else 'workers'} need {needed / 2**20:,.0f} MB; enlarge it (docker run "
            "--shm-size=8g), or decode without workers: SLICEBENCH_WORKERS=0"
        )


def workers() -> int:
    """How many processes decode images, by $SLICEBENCH_WORKERS. Raises UserError for what is no whole number."""
    text = os.environ.get("SLICEBENCH_WORKERS", "0").strip()
    if not text.isdecimal():
        raise UserError(f"SLICEBENCH_WORKERS must be a whole number of processes that decode images, not {text!r}")
    return int(text)
