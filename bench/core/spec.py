"""What a run is: frozen values, a name that is a hash of them, and their JSON form.

The `run_id` hashes the canonical JSON, in which every field that equals its default is left out. So a field
added later, with a default that means "as before", changes no old name; and **no default may ever change**.
pydantic stands at the file border (`bench/core/settings.py`) and is imported there.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any

from bench.core.errors import UserError
from bench.core.frozen import FrozenDict, freeze
from bench.core.names import check_label, is_run_id
from bench.core.ranges import check_number

DEVICES = ("cpu", "cuda")
OPTIMIZERS = ("sgd", "adamw", "nadamw", "lamb", "lars", "lion", "rmsproptf")
SCHEDULES = ("cosine", "linear", "step")
PRECISIONS = ("float32", "bfloat16")
_WEIGHTS = re.compile(r"timm:[A-Za-z0-9_.-]+|(official:[a-z0-9_]+=)?sha256:[0-9a-f]{64}")
_RANDAUGMENT = re.compile(r"none|rand(-(mstd|mmax|inc|m|n|p)[0-9]+(\.[0-9]+)?)*")  # as timm names its policies
_STRICT = {"extra": "forbid"}  # read by pydantic: an unknown key is an error


@dataclass(frozen=True)
class DataSpec:
    """Which data: a dataset's key, its protocol, and the size of a fixed subset of its train images.

    image_size: height and width in pixels that the networks get; None: the dataset's own. augmentation: one by name,
    where the dataset has several; None: its usual one. skip_corrupt: leave out images in class folders that cannot be
    decoded, which are an error otherwise. strict: boxes without an area are an error; otherwise they are left out with
    a warning. folder: the name of a folder in the data directory, for the dataset `folder`. A dataset that has no use
    for one of the last four refuses it.
    """

    __pydantic_config__ = _STRICT

    name: str = "digits"
    protocol: str = "official"
    train_images: int | None = None
    image_size: int | None = None
    augmentation: str | None = None
    skip_corrupt: bool = False
    strict: bool = False
    folder: str | None = None

    def __post_init__(self) -> None:
        for name in ("name", "protocol", "augmentation"):
            check_label(f"data.{name}", getattr(self, name))
        if self.folder is not None and not is_run_id(self.folder):
            raise UserError(f"data.folder must be a name of letters, digits, '_', '-', '.' or '+', not {self.folder!r}")
        for name in ("train_images", "image_size"):
            if getattr(self, name) is not None:
                check_number(f"data.{name}", getattr(self, name), 1, integer=True)


@dataclass(frozen=True)
class TrainSpec:
    """How one network is trained: the learning rate falls from `lr` to `min_lr` after a linear warm-up.

    optimizer: "sgd" with Nesterov momentum, or timm's of that name; one-dimensional parameters are without decay.
    schedule: how the rate falls: along a cosine, a line, or by the factor `decay_rate` every `decay_epochs` ("step").
    warmup_steps: length of the warm-up in steps; None: as `warmup_epochs` says.
    mixup, cutmix: the alpha of the beta distribution that mixes images and labels of a batch; where both are set, half
    of the batches are mixed by each; 0: off. random_erasing: the chance that a part of an image is replaced by noise;
    randaugment: timm's name of a policy ("rand-m9-mstd0.5") or "none"; None: as the data's own augmentation has them.
    drop_path: the chance that the last residual block is skipped, which rises linearly from 0 at the first; 0: off.
    clip_grad: largest norm of the gradient of a step; 0: no limit.
    accumulate: a batch is forwarded in so many equal parts, one after the other, whose gradients are averaged.
    ema: decay of the moving average of the weights that is kept in the end, a step; 0: the weights themselves are.
    precision: of the forward passes; weights, batch-norm statistics and losses are float32 always.
    workers: how many processes train and evaluate together; each forwards its share of every batch, so batch norm
    normalises each share by itself, and the gradients are averaged.
    max_steps: stop every training of the run after so many steps, to see that all works; what comes out of it is marked
    "not trained here" everywhere.
    """

    __pydantic_config__ = _STRICT

    epochs: int = 10
    batch_size: int = 64
    lr: float = 0.1
    weight_decay: float = 1e-4
    momentum: float = 0.9
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.1
    min_lr: float = 1e-5
    max_steps: int | None = None
    optimizer: str = "sgd"
    schedule: str = "cosine"
    decay_epochs: float = 30.0
    decay_rate: float = 0.1
    warmup_steps: int | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    random_erasing: float | None = None
    randaugment: str | None = None
    drop_path: float = 0.0
    clip_grad: float = 0.0
    accumulate: int = 1
    ema: float = 0.0
    precision: str = "float32"
    workers: int = 1

    def __post_init__(self) -> None:
        for name, least in (("max_steps", 1), ("warmup_steps", 0)):
            if getattr(self, name) is not None:
                check_number(f"train.{name}", getattr(self, name), least, integer=True)
        check_number("train.epochs", self.epochs, 0, integer=True)
        check_number("train.batch_size", self.batch_size, 1, integer=True)
        for name in ("accumulate", "workers"):
            check_number(f"train.{name}", getattr(self, name), 1, integer=True)
        for name in ("lr", "weight_decay", "warmup_epochs", "min_lr", "mixup", "cutmix", "clip_grad"):
            check_number(f"train.{name}", getattr(self, name), 0)
        for name in ("momentum", "label_smoothing", "drop_path", "ema"):
            check_number(f"train.{name}", getattr(self, name), 0, 1)
        self._check_names()
        self._check_parts()

    def _check_names(self) -> None:
        for name, allowed in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise UserError(f"train.{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        for name in ("decay_epochs", "decay_rate"):
            if not getattr(self, name) > 0:
                raise UserError(f"train.{name} must be above 0, not {getattr(self, name)!r}")
        if self.random_erasing is not None and not 0 <= self.random_erasing <= 1:
            raise UserError(f"train.random_erasing must be a chance from 0 to 1, not {self.random_erasing!r}")
        if self.randaugment is not None and not _RANDAUGMENT.fullmatch(self.randaugment):
            raise UserError(
                f"train.randaugment must be none or a policy such as rand-m9-mstd0.5, not {self.randaugment!r}"
            )

    def _check_parts(self) -> None:
        """Raise `UserError` for a batch that cannot be cut into the parts that it is forwarded in."""
        for name, parts in (("accumulate", self.accumulate), ("workers", self.workers), ("both", self.parts)):
            if self.batch_size % parts:
                what = "train.accumulate times train.workers" if name == "both" else f"train.{name}"
                raise UserError(f"{what} must divide train.batch_size, and {parts} does not divide {self.batch_size}")
        if self.mixes and self.batch_size // self.parts % 2:
            raise UserError(
                "mixup and cutmix pair the images of what is forwarded at once, and "
                f"{self.batch_size // self.parts} is an odd number of them; change train.batch_size"
            )

    @property
    def parts(self) -> int:
        """In how many parts a batch is forwarded, by all processes together."""
        return self.accumulate * self.workers

    @property
    def mixes(self) -> bool:
        """Whether images and labels of a batch are mixed, so that targets are shares of classes."""
        return self.mixup > 0 or self.cutmix > 0


@dataclass(frozen=True)
class ProfileSpec:
    """How calls are measured: batch sizes (images), interleaved rounds, warm-up calls of each candidate, and by which
    meters (registry keys)."""

    __pydantic_config__ = _STRICT

    batch_sizes: tuple[int, ...] = (1, 64)
    rounds: int = 15
    warmup: int = 3
    meters: tuple[str, ...] = ("latency",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_sizes", tuple(self.batch_sizes))
        object.__setattr__(self, "meters", tuple(self.meters))
        if not self.batch_sizes:
            raise UserError("profile.batch_sizes must name at least one batch size")
        if not self.meters or len(set(self.meters)) < len(self.meters):
            raise UserError("profile.meters must name at least one meter, and each once")
        for size in self.batch_sizes:
            check_number("profile.batch_sizes", size, 1, integer=True)
        check_number("profile.rounds", self.rounds, 1, integer=True)
        check_number("profile.warmup", self.warmup, 0, integer=True)


@dataclass(frozen=True)
class RunSpec:
    """One run, completely described: equal specs give equal results on one machine type with equal versions.

    `method`, `model` and `data.name` are registry keys, never paths. `options` are the method's own settings
    (JSON values; kept frozen, lists as tuples). `init_from` is the run_id of the run whose checkpoint this
    one starts from; `weights` names pretrained ones, "timm:NAME" or "sha256:" and the 64 hex digits of a
    kept file, in front of them "official:FORMAT=" where it is in its authors' names. Raises UserError when a
    value is impossible.

    >>> run = RunSpec("us_net", "us_mobilenet_micro8", train=TrainSpec(epochs=3), options={"random_widths": 1})
    >>> run.run_id
    'us_net-4e0eda15f416'
    >>> RunSpec("us_net", "us_mobilenet_micro8", threads=1).run_id == RunSpec("us_net", "us_mobilenet_micro8").run_id
    True
    >>> TrainSpec(lr=-1)
    Traceback (most recent call last):
    bench.core.errors.UserError: train.lr must be a number, at least 0, not -1
    """

    __pydantic_config__ = _STRICT

    method: str
    model: str
    data: DataSpec = field(default_factory=DataSpec)
    train: TrainSpec = field(default_factory=TrainSpec)
    profile: ProfileSpec = field(default_factory=ProfileSpec)
    options: dict[str, Any] = field(default_factory=FrozenDict)
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    init_from: str | None = None
    method_version: int = 1
    weights: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", freeze(self.options, "options"))
        for key in ("method", "init_from"):
            value = getattr(self, key)
            if value is not None and not is_run_id(value):
                raise UserError(f"{key} must be a name of letters, digits, '_', '-', '.' or '+', not {value!r}")
        check_label("model", self.model)
        self._check_weights()
        check_number("seed", self.seed, 0, integer=True)
        check_number("threads", self.threads, 1, integer=True)
        for name, most in (("seed", 2**64 - 1), ("threads", 1024)):  # what torch takes, and what a process survives
            if getattr(self, name) > most:
                raise UserError(f"{name} must be at most {most}, not {getattr(self, name)}")
        check_number("method_version", self.method_version, 1, integer=True)
        if self.device not in DEVICES:
            raise UserError(f"device must be one of {', '.join(DEVICES)}, not {self.device!r}")

    def _check_weights(self) -> None:
        if self.weights is None:
            return
        if not isinstance(self.weights, str) or not _WEIGHTS.fullmatch(self.weights):
            raise UserError(f"weights must be timm:NAME or sha256:DIGEST (a file: --weights), not {self.weights!r}")
        if self.init_from is not None:
            raise UserError("a run starts from pretrained weights or from another run (init_from), not from both")

    def processes(self, phase: str) -> int:
        """How many processes do a phase together: a latency is measured by one."""
        return 1 if phase == "profile" else self.train.workers

    @property
    def run_id(self) -> str:
        """The name of this run: the method's key and 12 hex digits of the canonical form's SHA-256."""
        text = json.dumps(canonical(self), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return f"{self.method}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def to_json(self) -> dict[str, Any]:
        """Every field, nothing left out, as plain JSON values. `parse_spec` is its inverse."""
        return json.loads(json.dumps(asdict(self), allow_nan=False))


def canonical(value: Any) -> Any:
    """The form that is hashed: fields equal to their defaults left out, 1.0 written as 1."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: canonical(v) for f in fields(value) if (v := getattr(value, f.name)) != _default(f)}
    if isinstance(value, Mapping):
        return {key: canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _default(f: Any) -> Any:
    return f.default if f.default_factory is MISSING else f.default_factory()


def changed(specs: Sequence[RunSpec], change: Callable[[RunSpec], RunSpec]) -> list[RunSpec]:
    """Apply a change to every spec and let children name their parents' new run_ids; what has become equal counts once.

    The order is kept; a child may stand in front of its parent.

    >>> parent = RunSpec("ds_net", "ds_mobilenet_micro8")
    >>> control = replace(parent, method="random_gate", init_from=parent.run_id)
    >>> longer, linked = changed([parent, control], lambda spec: replace(spec, seed=1))
    >>> linked.init_from == longer.run_id != parent.run_id
    True
    """
    before = {spec.run_id: spec for spec in specs}
    after: dict[str, RunSpec] = {}  # by the run_id before

    def renew(spec: RunSpec) -> RunSpec:
        if spec.run_id not in after:
            parent = renew(before[spec.init_from]).run_id if spec.init_from in before else spec.init_from
            after[spec.run_id] = change(replace(spec, init_from=parent))
        return after[spec.run_id]

    return list({(new := renew(spec)).run_id: new for spec in specs}.values())
