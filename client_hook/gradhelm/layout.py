"""The layout of a run: which parameters are watched, and the column of each number.

Law: a parameter is listed once, in the order of ``model.parameters()``, because the order decides
the last bit of the common norm. The clip's own scalars come first, then the norms, then what the
strategy decided for each parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from torch import nn

from .clip import Strategy, Target
from .wire import MAX_COLUMNS, MAX_NAME, Column

if TYPE_CHECKING:
    from torch import Tensor

SCALARS: Final = (
    "global_norm",
    "post_norm",
    "threshold",
    "clip_coef",
    "clipped",
    "skipped",
    "nonfinite",
    "lr",
)
"""The scalars of each step, in the recorder's order. ``clip_share`` follows for strategies that
count elements."""

RULE_SCALARS: Final = ("global_norm", "threshold", "clip_coef", "clipped")
"""What is told of each rule of a ``clip`` that is a dict or a list, of its own gradients."""

BLOCKS: Final = frozenset(
    {"norm", "coef", "threshold", "rule", "weight_norm", "update_norm", "update_ratio"}
    | {"update_rms", "gradient_exponent"}
)
"""What the names of columns begin with; no stream may be called so."""

RESERVED: Final = frozenset({"clip_share"})
"""Beside the run's columns, names that nobody may log under: others take them for such."""

MAX_OWN: Final = MAX_COLUMNS - 512
"""Columns that a run's own layout may have; the rest is for what the script logs."""


class Layout:
    """The watched parameters and the columns of the ring's rows.

    First the scalars, then four of each rule's own (:data:`RULE_SCALARS`), then blocks of one
    column for each parameter: the norms, and the ``details`` that the strategy decides for each.
    """

    def __init__(self, targets: list[Target], strategy: Strategy, stream: str | None) -> None:
        self.targets = targets
        self.stream = stream
        self.counts_elements = strategy.counts_elements
        self.rules = [rule for rule in strategy.rules if rule is not None]
        prefix = "" if stream is None else f"{stream}/"
        scalars = [*SCALARS, *(["clip_share"] if self.counts_elements else [])]
        self.columns = [Column(prefix + name, "scalar") for name in scalars]
        self.columns += [
            Column(f"{prefix}rule/{rule}/{name}", "detail")
            for rule in self.rules
            for name in RULE_SCALARS
        ]
        self.first_norm = len(self.columns)
        self.details = tuple(
            name
            for name, told in (
                ("coef", strategy.per_parameter),
                ("threshold", strategy.per_parameter_thresholds),
            )
            if told
        )
        for block, kind in (("norm", "norm"), *((name, "detail") for name in self.details)):
            self.columns += [
                Column(
                    f"{prefix}{block}/{target.name}",
                    kind,
                    tuple(target.parameter.shape)[:16],
                    str(target.parameter.dtype).removeprefix("torch.")[:20],
                )
                for target in targets
            ]


def choose(
    model: nn.Module, groups: Sequence[Mapping[str, Any]] | None, optimizer: str = ""
) -> list[Target]:
    """The parameters that a run clips and watches.

    groups: the parameter groups of the optimizer; ``optimizer`` is its name among several.

    Without groups: the model's trainable ones. With them: what they hold, the model's own
    first (in the model's order, frozen ones too: they are reported as missing), then those that are
    not the model's, as ``optimizer.<group>.<place>``. Names lose the prefixes that torch's wrappers
    add. Raises ValueError when there is nothing to watch, or too much.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters()]
    if groups is None:
        found = [(name, p) for name, p in named if p.requires_grad]
        if not found:
            raise ValueError("model has no trainable parameters")
        return _targets(model, _plain(name for name, _ in found), (p for _, p in found))
    held = {
        id(p): (f"optimizer.{g}.{i}", p)
        for g, group in enumerate(groups)
        for i, p in enumerate(group["params"])
    }
    found = [(name, p) for name, p in named if id(p) in held]
    which = f"optimizer {optimizer!r}" if optimizer else "optimizer"
    if not found:
        raise ValueError(f"{which} holds none of the model's parameters")
    if not any(p.requires_grad for _, p in found):
        raise ValueError(f"{which} holds no trainable parameter of the model")
    for _, parameter in found:
        del held[id(parameter)]
    names = [*_plain(name for name, _ in found), *(name for name, _ in held.values())]
    return _targets(model, names, [*(p for _, p in found), *(p for _, p in held.values())])


def _plain(names: Iterable[str]) -> list[str]:
    """Names without the prefixes of ``torch.compile`` and of the parallel wrappers."""
    plain = [name.replace("_orig_mod.", "") for name in names]
    if all(name.startswith("module.") for name in plain):
        plain = [name.removeprefix("module.") for name in plain]
    return plain


def _targets(model: nn.Module, names: Iterable[str], parameters: Iterable[Tensor]) -> list[Target]:
    sparse: set[int] = set()
    masks: dict[int, Callable[[], Tensor | None]] = {}
    for module in model.modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.sparse:
            sparse.add(id(module.weight))
        for name, parameter in module.named_parameters(recurse=False):
            masks[id(parameter)] = partial(_mask, module, name.removesuffix("_orig"))
    return [
        Target(name, p, id(p) in sparse, masks.get(id(p)))
        for name, p in zip(_distinct(names), parameters, strict=True)
    ]


def _mask(module: nn.Module, name: str) -> Tensor | None:
    """The mask of a parameter, while it is pruned: torch.nn.utils.prune keeps it as x_orig then,
    beside the buffer x_mask."""
    pruned = f"{name}_orig" in module._parameters
    mask: Tensor | None = getattr(module, f"{name}_mask", None) if pruned else None
    return mask


def _distinct(names: Iterable[str]) -> Iterator[str]:
    """``names``, each at most MAX_NAME characters and none twice."""
    seen: set[str] = set()
    for name in names:
        short = name
        if len(short) > MAX_NAME:
            digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
            half = (MAX_NAME - len(digest) - 2) // 2
            short = f"{name[:half]}~{digest}~{name[-half:]}"
        count = 1
        candidate = short
        while candidate in seen:
            count += 1
            suffix = f"#{count}"
            candidate = short[: MAX_NAME - len(suffix)] + suffix
        seen.add(candidate)
        yield candidate
