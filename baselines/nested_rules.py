"""The schemes of nested Vision Transformers: which sub-networks there are, what each step trains, who teaches whom.

Facts are those of METHODS 13: abstracts, and of Scala the official code. Where they are silent the rule is ours:
MatFormer's granularities have equal weight; HydraViT draws each sub-network with equal probability; Scala's halves are
by rank in the list, so that every list has them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.slicing.choice import Choice, ChoiceSpace
from bench.training.joint import Lesson

STREAM = 0  # the stage that holds the embedding, in the spaces of `bench/models/vit/nested.py`


@dataclass(frozen=True)
class Scheme:
    """
    Attributes:
        paper: where it comes from.
        choices: (space, steps of its ladder) to the sub-network that stands at each step.
        lessons: (sub-networks, share of the training that is done, share in which the full network trains alone,
            randomness of the step) to the lessons of a step.
        name: of one of its sub-networks, as a point.
    """

    paper: str
    choices: Callable[[ChoiceSpace, Sequence[Choice]], list[Choice]]
    lessons: Callable[[Sequence[Choice], float, float, random.Random], list[Lesson]]
    name: Callable[[ChoiceSpace, Choice], str]


def mlp_choices(space: ChoiceSpace, rungs: Sequence[Choice]) -> list[Choice]:
    """MatFormer: the full stream and all heads; only the MLPs are as wide as at that step."""
    stream, *blocks = space.largest.indices
    return [
        Choice((stream, *((heads, hidden) for (heads, _), (_, hidden) in zip(blocks, rung.indices[1:], strict=True))))
        for rung in rungs
    ]


def head_choices(space: ChoiceSpace, rungs: Sequence[Choice]) -> list[Choice]:
    """HydraViT: heads, embedding and MLPs sliced together, as at that step."""
    return list(rungs)


def isolated_choices(space: ChoiceSpace, rungs: Sequence[Choice]) -> list[Choice]:
    """Scala: the same; what lies between the smallest and the widest runs on the trailing slice."""
    return [rungs[0], *map(trailing, rungs[1:-1]), *rungs[1:][-1:]]


def trailing(choice: Choice) -> Choice:
    """The same widths on the trailing channels, heads and hidden units."""
    (embedding, _), *blocks = choice.indices
    return Choice(((embedding, 0), *blocks))


def all_jointly(choices: Sequence[Choice], done: float, alone: float, generator: random.Random) -> list[Lesson]:
    """MatFormer: every sub-network learns the labels in every step."""
    return [Lesson(choice) for choice in choices]


def one_at_random(choices: Sequence[Choice], done: float, alone: float, generator: random.Random) -> list[Lesson]:
    """HydraViT: one random sub-network a step learns the labels."""
    return [Lesson(generator.choice(choices))]


def progressively(choices: Sequence[Choice], done: float, alone: float, generator: random.Random) -> list[Lesson]:
    """Scala: the full network, one of the upper half, one of the lower half, the smallest; each but the first is taught
    by the one before (progressive knowledge transfer) and by the labels at weight 1 (noisy calibration). At first the
    full network trains alone. A half without sub-networks is left out."""
    if done < alone or len(choices) == 1:
        return [Lesson(choices[-1])]
    between = range(1, len(choices) - 1)
    lower = [choices[i] for i in between if 2 * i < len(choices) - 1]
    upper = [choices[i] for i in between if 2 * i >= len(choices) - 1]
    drawn = [generator.choice(half) for half in (upper, lower) if half]
    students = [*drawn, choices[0]]
    return [Lesson(choices[-1]), *(Lesson(choice, teacher=index) for index, choice in enumerate(students))]


def mlp_name(space: ChoiceSpace, choice: Choice) -> str:
    return f"mlp{space.width(choice, STREAM + 1, 'mlp')}"


def heads_name(space: ChoiceSpace, choice: Choice) -> str:
    return f"heads{space.width(choice, STREAM + 1, 'heads')}"


def width_name(space: ChoiceSpace, choice: Choice) -> str:
    ratio = space.width(choice, STREAM, "embedding") / space.width(space.largest, STREAM, "embedding")
    return f"width{ratio:.3g}"


SCHEMES = {
    "matformer": Scheme("NeurIPS 2024, arXiv 2310.07707", mlp_choices, all_jointly, mlp_name),
    "hydravit": Scheme("NeurIPS 2024, arXiv 2409.17978", head_choices, one_at_random, heads_name),
    "scala": Scheme("NeurIPS 2024, arXiv 2412.04786", isolated_choices, progressively, width_name),
}
