"""The front of a supernet, which several sub-networks of a step share, is forwarded and back-propagated once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from bench.core.errors import UserError
from bench.slicing.choice import AnyChoice, Choice, ChoiceSpace
from bench.slicing.supernet import Supernet
from bench.training.precision import back_propagate


def check_front(space: ChoiceSpace, choices: Sequence[Choice]) -> None:
    """Raise `UserError` where the sub-networks of these choices do not begin with the same segments."""
    if not space.shared_segments(choices):
        raise UserError("shared_front is without effect: the sub-networks of this model share no segment; leave it out")


@contextmanager
def forwarded_once(
    net: Supernet, x: Tensor, choice: AnyChoice, segments: int
) -> Iterator[Callable[[AnyChoice], Tensor]]:
    """Within it, a function from a choice to the output (B, ...) of its sub-network for the images `x`.

    The first `segments` segments are forwarded once, under `choice`, and must be equal under all choices of the block.
    Gradients that reach their end add up there, and pass through them once at the end of the block.
    """
    arrived = net(x, choice, stop=segments)
    end = arrived.detach().requires_grad_(segments > 0)
    yield lambda one: net(end, one, segments)
    if segments:
        back_propagate(arrived, end.grad)
