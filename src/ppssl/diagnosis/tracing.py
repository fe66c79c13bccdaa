"""Where a number that is not finite comes from: the first operation that makes one, its layer, and its images."""

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["Origin", "OriginTracer", "innermost_place", "layers"]

_FILLS = ("masked_fill", "fill", "full", "where", "masked_fill_", "fill_", "new_full", "full_like")
"""Operations that put infinities where they are meant to be, such as masked similarities."""
_TORCH = str(Path(torch.__file__).parent)
_LOW = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Origin:
    """Where the first number that is not finite was made.

    Attributes:
        layer: Name of the innermost module in whose forward pass it was; empty outside of all.
        kind: Class of that module.
        operation: Name of the function of torch.
        place: File and line that called it.
        rows: Rows of its output that are not finite, where the output has one for each image; else empty.
    """

    layer: str
    kind: str
    operation: str
    place: str
    rows: tuple[int, ...]


class OriginTracer(TorchFunctionMode):
    """Mode in which all floating-point tensors are computed in float64, and operations that make NaN are found.

    Args:
        running: The modules whose forward pass is under way, outermost first, see :func:`layers`.
        images: Images in the batch.
        promote: Whether to compute in float64, also where a module asks for float32; otherwise as it is.
    """

    def __init__(
        self, running: list[tuple[str, nn.Module]], images: int, *, promote: bool = True
    ) -> None:
        super().__init__()
        self.running, self.images, self.promote = running, images, promote
        self._nan: Origin | None = None
        self._infinite: Origin | None = None
        self._after_infinity = False

    @property
    def origin(self) -> Origin | None:
        """The first operation that made NaN, or an infinity that became one; ``None`` if there was neither."""
        return self._infinite if self._nan is None or self._after_infinity else self._nan

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch, and look at what it returns."""
        kwargs, name = kwargs or {}, getattr(func, "__name__", str(func))
        if self.promote and name not in ("__get__", "__set__") and not name.endswith("_"):
            func = Tensor.double if func in (Tensor.float, Tensor.half, Tensor.bfloat16) else func
            args, kwargs = _promoted(args), _promoted(kwargs)
        result = func(*args, **kwargs)
        if self._nan is None and name not in ("__get__", "__set__"):
            self._look(name, args, kwargs, result)
        return result

    def _look(self, name: str, args: Any, kwargs: Any, result: Any) -> None:
        made = [t for t in _tensors(result) if t.is_floating_point()]
        if all(bool(t.isfinite().all()) for t in made):
            return
        given = [t for t in _tensors((args, kwargs)) if t.is_floating_point()]
        finite = all(bool(t.isfinite().all()) for t in given)
        is_nan = any(bool(t.isnan().any()) for t in made)
        if is_nan and not any(bool(t.isnan().any()) for t in given):
            self._nan = self._origin(name, made)
            self._after_infinity = not finite and self._infinite is not None
        elif finite and self._infinite is None and name not in _FILLS:
            self._infinite = self._origin(name, made)

    def _origin(self, name: str, made: list[Tensor]) -> Origin:
        bad = next(t for t in made if not t.isfinite().all())
        layer, module = self.running[-1] if self.running else ("", None)
        shuffled = any(part.startswith("key_") for part in layer.split("."))
        rows: list[int] = []
        if bad.ndim and len(bad) == self.images and not shuffled:
            wrong = ~bad.reshape(len(bad), -1).isfinite()
            rows = wrong.any(dim=1).nonzero()[:, 0].tolist()
        kind = "" if module is None else type(module).__name__
        return Origin(layer, kind, name, _place(), tuple(rows))


def _place() -> str:
    """File and line of the innermost caller outside of torch and this file."""
    frames = traceback.extract_stack()
    return innermost_place([(frame.filename, frame.lineno or 0) for frame in frames])


def innermost_place(frames: Sequence[tuple[str, int | str]]) -> str:
    """The last of some files and lines that is neither in torch nor in this file; empty if all are."""
    for file, line in reversed(frames):
        if not file.startswith(_TORCH) and file != __file__:
            return f"{file}:{line}"
    return ""


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _promoted(value: Any) -> Any:
    """A value with float64 in place of other floating-point types, in lists, tuples and dicts."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, torch.dtype):
        return torch.float64 if value in _LOW else value
    if type(value) in (list, tuple):
        return type(value)(_promoted(item) for item in value)
    if isinstance(value, dict):
        return {name: _promoted(item) for name, item in value.items()}
    return value


@contextmanager
def layers(model: nn.Module) -> Iterator[list[tuple[str, nn.Module]]]:
    """Context with a list of the modules whose forward pass is under way, by name, outermost first."""
    running: list[tuple[str, nn.Module]] = []

    def enter(name: str) -> Callable[..., None]:
        return lambda module, *_: running.append((name, module))

    def leave(*_: Any) -> None:
        running.pop()

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if name:
                for hook in (
                    module.register_forward_pre_hook(enter(name)),
                    module.register_forward_hook(leave),
                ):
                    hooks.callback(hook.remove)
        yield running
