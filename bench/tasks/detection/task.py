"""Detection as a task: the detector's loss, its distillation, and when an image counts as solved.

Our design; no detection code of DS-Net is public (METHODS 6). The loss is made of RetinaNet's parts (Lin et al. 2017):
sigmoid focal loss on all anchors and smooth L1 on the offsets of those that match an object, by torchvision's matcher
and box coder. Other than there, an object's anchors share its weight.
A teacher gives soft class targets on all anchors, weighted as in focal loss by how far student and teacher are apart
(Li et al. 2020, quality focal loss), and its boxes where it sees an object. The score of an image is F1 at IoU 0.5.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, sigmoid_focal_loss

from bench.core.errors import UserError
from bench.data.dataset import Dataset, Split
from bench.models.detector.head import OFFSETS
from bench.tasks.detection.anchors import anchor_grid, fit_sizes
from bench.tasks.detection.detections import Detections
from bench.tasks.task import in_float32, widened

POSITIVE, NEGATIVE = 0.4, 0.3  # IoU with an object from which an anchor stands for it, below which for none
CONFIDENCE = 0.3  # of the detections that an image's F1 counts
LOWEST, CANDIDATES = 0.001, 200  # score of a detection; how many of a class are looked at in an image
SUPPRESSED = 0.5  # IoU with a better one of its class
SEEN = 0.3  # a teacher's probability from which its box is a target
BATCH = 64
NEVER = -20.0  # logit of what is not there


def anchor_weights(rows: Tensor, is_object: Tensor, objects: int) -> Tensor:
    """(B, A): one over the number of anchors that match the same object; 0 for those that match none.

    Args:
        rows: (B, A) which of the `objects` rows of its image each anchor matches. is_object: (B, A) bool.
    """
    matches = is_object.float()
    counts = matches.new_zeros(len(rows), objects).scatter_add(1, rows, matches)  # (B, objects)
    return matches / counts.gather(1, rows).clamp(min=1)


class Detection:
    """See the module. `targets` of a batch are (B, M, 6) as in `data/boxes.py`; outputs (B, A, 4 + classes).

    Args:
        anchors: (A, 4) in pixels. edge: of the images, in pixels. threshold: F1 from which an image is solved.
    """

    headline = "map50_voc"

    def __init__(self, anchors: Tensor, classes: tuple[str, ...], edge: int, threshold: float = 0.5) -> None:
        self.anchors, self.classes, self.edge, self.threshold = anchors, classes, edge, threshold
        self.coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
        self.matcher = Matcher(POSITIVE, NEGATIVE, allow_low_quality_matches=True)

    @classmethod
    def of(cls, data: Dataset) -> Detection:
        """The task of a dataset with boxes, anchors fitted to those of its training images."""
        targets = getattr(data.train, "targets", np.empty(0))  # (N, M, 6) of whatever split has boxes
        if targets.ndim != 3:
            raise UserError(f"{data.id} has no boxes, so nothing can be detected")
        rows = targets.reshape(-1, targets.shape[-1])
        boxes = rows[rows[:, 4] >= 0]
        sizes = fit_sizes((boxes[:, 2:4] - boxes[:, :2]).astype(np.float64))
        return cls(anchor_grid(sizes, data.image_size), data.classes, data.image_size)

    @in_float32
    def loss(self, output: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
        """Focal loss and smooth L1, for every object the mean over its anchors, and focal loss of anchors that match
        none; divided by the number of objects in the batch.

        A small object has one anchor where a larger one has ten, and would not be learnt beside it by a sum over
        anchors. `smoothing` is not used: focal loss has no labels to smooth.
        """
        offsets, logits = self._split(output)
        matched = torch.stack([self._match(each) for each in target])  # (B, A)
        rows = matched.clamp(min=0)
        boxes = target.gather(1, rows[..., None].expand(-1, -1, target.shape[2]))  # (B, A, 6)
        is_object = (matched >= 0) & (boxes[..., 5] == 0)
        is_nothing = matched == Matcher.BELOW_LOW_THRESHOLD
        weights = anchor_weights(rows, is_object, target.shape[1])
        wanted = F.one_hot(boxes[..., 4].long().clamp(min=0), len(self.classes)) * is_object[..., None]
        focal = sigmoid_focal_loss(logits, wanted.to(logits.dtype)).sum(2)
        at = self._anchors(output).expand(len(output), -1, -1)[is_object]
        codes = self.coder.encode_single(boxes[..., :4][is_object], at)
        located = F.smooth_l1_loss(offsets[is_object], codes, reduction="none").sum(1) @ weights[is_object]
        classes = (focal * torch.where(is_nothing, 1.0, weights)).sum()
        return (classes + located) / weights.sum().clamp(min=1)

    def _match(self, target: Tensor) -> Tensor:
        """(A,) the row of (M, 6) that each anchor stands for; BELOW_LOW_THRESHOLD for none, BETWEEN_THRESHOLDS where
        that is undecided."""
        rows = (target[:, 4] >= 0).nonzero().flatten()
        if not len(rows):
            return torch.full((len(self.anchors),), Matcher.BELOW_LOW_THRESHOLD, device=target.device)
        matched = self.matcher(box_iou(target[rows, :4], self._anchors(target)))
        return torch.where(matched >= 0, rows[matched.clamp(min=0)], matched)

    def _anchors(self, like: Tensor) -> Tensor:
        return self.anchors.to(like.device)

    def _split(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets (B, A, 4) and logits (B, A, classes). Raises UserError for another number of anchors."""
        if output.shape[1] != len(self.anchors):
            raise UserError(
                f"this detector looks at {output.shape[1]} places, and images of {self.edge} pixels have "
                f"{len(self.anchors)}; choose an edge that is a multiple of 32"
            )
        return output[..., :OFFSETS], output[..., OFFSETS:]

    def soften(self, output: Tensor) -> Tensor:
        """(B, A, 4 + classes): a teacher's offsets and class probabilities, detached."""
        offsets, logits = self._split(widened(output.detach()))
        return torch.cat([offsets, logits.sigmoid()], dim=2)

    @in_float32
    def distill(self, output: Tensor, target: Tensor) -> Tensor:
        """Soft classes on all anchors and smooth L1 to the teacher's boxes where it is sure of an object, each a sum
        over the batch divided by how many anchors stand for an object by the teacher's probabilities (at least one an
        image). A teacher that is sure of nothing yet thus teaches no louder than one that is."""
        offsets, logits = self._split(output)
        taught, probability = self._split(target)
        apart = (logits.detach().sigmoid() - probability).square()
        classes = (apart * F.binary_cross_entropy_with_logits(logits, probability, reduction="none")).sum()
        surest = probability.amax(2)  # (B, A)
        seen = surest >= SEEN
        located = F.smooth_l1_loss(offsets[seen], taught[seen], reduction="sum")
        return (classes + located) / surest.sum().clamp(min=len(output))

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """(B,): F1 of each image at IoU 0.5 over the detections of at least `CONFIDENCE`."""
        images = self.details(output, target, CONFIDENCE)
        return torch.tensor([each.f1(CONFIDENCE) for each in images], device=output.device)

    @torch.no_grad()
    def details(self, output: Tensor, target: Tensor, lowest: float = LOWEST) -> list[Detections]:
        """What was found in each image with at least the score `lowest`, beside what is there."""
        offsets, logits = self._split(output.float())
        probability = logits.sigmoid()
        return [self._detections(*each, lowest) for each in zip(offsets, probability, target, strict=True)]

    def _detections(self, offsets: Tensor, probability: Tensor, target: Tensor, lowest: float) -> Detections:
        order = probability.sort(dim=0, descending=True, stable=True)  # of each class, so that no other crowds it out
        scores, at = order.values[:CANDIDATES], order.indices[:CANDIDATES]
        enough = scores >= lowest
        labels = enough.nonzero()[:, 1]
        scores, at = scores[enough], at[enough]
        boxes = self.coder.decode_single(offsets[at], self._anchors(offsets)[at])
        boxes = clip_boxes_to_image(boxes, (self.edge, self.edge))
        kept = batched_nms(boxes, scores, labels, SUPPRESSED)
        objects = target[target[:, 4] >= 0].cpu().numpy()
        return Detections(
            boxes[kept].cpu().numpy(),
            scores[kept].cpu().numpy(),
            labels[kept].cpu().numpy(),
            objects[:, :4],
            objects[:, 4].astype(np.int64),
            objects[:, 5] > 0,
        )

    def prior(self, split: Split) -> Tensor:
        """(A, 4 + classes): of each class one box, the mean of its boxes in the split, with the class's share of all
        objects as its probability, at the anchor that is nearest to it."""
        rows = torch.cat([batch.targets.flatten(0, 1) for batch in split.batches(BATCH)])
        rows = rows[rows[:, 4] >= 0]
        nowhere = torch.full((len(self.anchors), len(self.classes)), NEVER)
        output = torch.cat([torch.zeros_like(self.anchors), nowhere], 1)
        for label in rows[:, 4].long().unique().tolist():
            members = rows[rows[:, 4] == label]
            box = members[:, :4].mean(0, keepdim=True)
            at = int(box_iou(box, self.anchors).masked_fill(output[:, OFFSETS:].amax(1) > NEVER, -1).argmax())
            output[at, :OFFSETS] = self.coder.encode_single(box, self.anchors[at : at + 1])[0]
            output[at, OFFSETS + label] = torch.logit(torch.tensor(len(members) / len(rows)), eps=1e-6)
        return output

    @torch.no_grad()
    def fitted(self, network: Callable[[Tensor], Tensor], split: Split, device: torch.device) -> Detection:
        """This task with the threshold from which gates count an image as solved: the median F1 of `network`, the
        widest that they may choose, over the validation split. An image is then easy if a slimmer one does as well on
        it as the widest does on half of the images. Where that is 0, on which every image would be easy, it is the
        least that is not."""
        scores = [self.score(network(batch.x), batch.targets) for batch in split.batches(BATCH, device=device)]
        chosen = copy.copy(self)
        chosen.threshold = solved_from(torch.cat(scores), self.threshold)
        return chosen


def solved_from(scores: Tensor, otherwise: float) -> float:
    """The median of (n,) scores; the least positive one where that is 0, `otherwise` where all are."""
    positive = scores[scores > 0]
    median = float(scores.median())
    return median if median > 0 else float(positive.min()) if len(positive) else otherwise
