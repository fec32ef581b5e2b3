"""Weights of timm's DeiT and ViT in and out of a DS-ViT++ or nested supernet.

The key map: `cls_token`, `pos_embed`, `patch_embed.proj`, `norm` and `head` go to the embedding and the head;
`blocks.i` to the i-th block in network order, `attn` and `mlp.fc1`, `mlp.fc2` within it to `attention`, `fc1`, `fc2`.
All values are copied as they are but the rows of qkv (weight and bias): timm stores them as (3, heads, head_dim), we
as (heads, 3, head_dim), so that the first heads are one prefix. A state dict does not tell its number of heads: it is
taken to be that of the supernet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from bench.core.errors import UserError
from bench.models.vit.units import Block, Embedding, Head
from bench.slicing.supernet import Supernet

State = Mapping[str, Tensor]

EMBEDDING_NAMES = {"token": "cls_token", "position": "pos_embed", "patches": "patch_embed.proj"}
BLOCK_NAMES = {
    "norm1": "norm1",
    "attention.qkv": "attn.qkv",
    "attention.proj": "attn.proj",
    "norm2": "norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
HEAD_NAMES = {"norm": "norm", "linear": "head"}


def by_head(rows: Tensor, heads: int) -> Tensor:
    """Rows of qkv, (3 * heads * head_dim, ...), from timm's order (3, heads, head_dim) to (heads, 3, head_dim)."""
    return rows.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2)


def by_kind(rows: Tensor, heads: int) -> Tensor:
    """The inverse of `by_head`."""
    return rows.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)


def key_map(net: Supernet) -> dict[str, str]:
    """The name in timm's state dict of every parameter of a supernet."""
    table = {}
    for prefix, renamed, names in _pieces(net):
        for ours, theirs in names.items():
            table[f"{prefix}.{ours}"] = renamed + theirs
    return {key: _renamed(key, table) for key in net.state_dict()}


def _pieces(net: Supernet) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Each module that holds weights: its name here, its prefix in timm, and the names within it."""
    blocks = 0
    for name, module in net.named_modules():
        if isinstance(module, Embedding):
            yield name, "", EMBEDDING_NAMES
        elif isinstance(module, Block):
            yield name, f"blocks.{blocks}.", BLOCK_NAMES
            blocks += 1
        elif isinstance(module, Head):
            yield name, "", HEAD_NAMES


def _renamed(key: str, table: Mapping[str, str]) -> str:
    if key in table:
        return table[key]
    module, parameter = key.rsplit(".", 1)
    return f"{table[module]}.{parameter}"


def from_timm(state: State, net: Supernet, head: bool = True) -> dict[str, Tensor]:
    """The state dict of `net` with the values of a timm state dict.

    Args:
        head: take the classifier too; without it the classifier of `net` stays, and so may its number of classes.

    Raises:
        UserError: the checkpoint is of another architecture, shape or normalisation; the message says what differs.
    """
    own, names, heads = net.state_dict(), key_map(net), _heads(net)
    if not head:
        names = {key: name for key, name in names.items() if not name.startswith("head.")}
        state = {name: value for name, value in state.items() if not name.startswith("head.")}
    _check(state, {name: tuple(own[key].shape) for key, name in names.items()})
    tensors = {key: by_head(state[name], heads) if ".qkv." in key else state[name] for key, name in names.items()}
    return {**own, **tensors}


def to_timm(net: Supernet) -> dict[str, Tensor]:
    """The full network of a supernet as a state dict for timm: the inverse of `from_timm`."""
    names, heads = key_map(net), _heads(net)
    return {names[k]: by_kind(v, heads) if ".qkv." in k else v for k, v in net.state_dict().items()}


def load_timm(net: Supernet, state: State, head: bool = True) -> None:
    """Put timm's weights into a supernet. Raises `UserError` as `from_timm` does; then the supernet is as it was."""
    net.load_state_dict(from_timm(state, net, head))


def _heads(net: Supernet) -> int:
    return net.space.stages[-1].values("heads")[-1]


def _check(state: State, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises `UserError` unless a state dict holds exactly the expected names, each in its shape."""
    missing = [name for name in expected if name not in state]
    foreign = [name for name in state if name not in expected]
    if any(name.startswith(("dist_token", "head_dist")) for name in foreign):
        raise UserError(
            "the checkpoint is a distilled DeiT (it holds dist_token or head_dist), which has one token more; "
            "take the checkpoint of the same size without distillation"
        )
    for names, verb in ((missing, "lacks"), (foreign, "also holds")):
        if names:
            norm = next((name for name in names if "norm" in name), None)
            reason = "its normalisation is not this network's layer norm" if norm else "it is another architecture"
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(f"the checkpoint {verb} {norm or names[0]}{more}: {reason}")
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise UserError(
                f"the checkpoint's {name} has shape {tuple(state[name].shape)}, this network needs {shape}; "
                "use the preset of the checkpoint's size, image size and number of classes"
            )
