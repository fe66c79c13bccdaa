"""A step whose loss was not finite, computed as it was and in float64: its term, layer and image."""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ppssl.checkpointing.not_finite import exact
from ppssl.diagnosis.tracing import Origin, OriginTracer, innermost_place, layers
from ppssl.utils.finite import LossOfStep

__all__ = ["Replay", "examine"]


@dataclass(frozen=True)
class Replay:
    """What was found by repeating a step.

    Attributes:
        step: Number of optimizer steps before it.
        epoch: Its epoch.
        images: Numbers of the images of its batch.
        same: Whether all terms have the values of the run, to the last bit.
        terms: Terms that are not finite, with the positions of the images in the batch; empty for a scalar.
        finite_in_float64: Whether all terms are finite in float64: then the range of the run's precision is exceeded.
        origin: The operation that first made a number that is not finite; ``None`` if it is in batch or weights.
        input: What was not finite before the first operation: ``views`` of the batch, or the name of a weight.
        backward: What anomaly detection says of the backward pass in float64; empty if nothing.
        guilty: Number and name of each image whose values are not finite.
    """

    step: int
    epoch: int
    images: list[int]
    same: bool
    terms: dict[str, list[int]]
    finite_in_float64: bool
    origin: Origin | None = None
    input: str = ""
    backward: str = ""
    guilty: list[tuple[int, str]] = field(default_factory=list)

    def lines(self) -> dict[str, str]:
        """The findings as text, by what they are about."""
        images = len(self.images)
        listed = [
            f"`{n}` ({len(rows) or 'mean'} of {images} values)" for n, rows in self.terms.items()
        ]
        lines = {
            f"step {self.step}, epoch {self.epoch}": "the values of the run, to the last bit"
            if self.same
            else "other values than in the run: another machine or other versions, or a model without a seed",
            "in float64": "finite: the precision of the run has too small a range"
            if self.finite_in_float64
            else "not finite either",
            "term": ", ".join(listed) or "none is not finite here",
        }
        if self.input:
            lines["before the step"] = f"{self.input} is not finite"
        if self.origin is not None:
            layer = (
                f"`{self.origin.layer}` ({self.origin.kind})" if self.origin.layer else "no layer"
            )
            lines["layer"] = f"{layer}: `{self.origin.operation}` at {self.origin.place}"
        if self.backward:
            lines["backward pass"] = self.backward
        named = ", ".join(f"{index} ({name})" for index, name in self.guilty)
        lines["image" if len(self.guilty) == 1 else "images"] = named or "all of the batch"
        return lines


def examine(
    trainer: Any, model: Any, batch: Mapping[str, Any], number: int, record: Mapping[str, Any]
) -> Replay:
    """Compute a step as it was, and again in float64; the model is not used afterwards."""
    model.log_step = lambda *_, **__: None
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with trainer.precision_plugin.train_step_context():
        model.training_step(batch, number)
    repeated = model.loss_history.pop()
    values = {name: exact(term) for name, term in repeated.terms.items()}
    bad_input = _bad_input(model, batch)
    model.load_state_dict(before)
    double, origin, backward = _in_float64(model, batch, number)
    finite = all(bool(term.isfinite().all()) for term in double.terms.values())
    if finite:  # so the origin is an operation in the precision of the run
        model.load_state_dict(before)
        model.float()
        with trainer.precision_plugin.train_step_context():
            origin = _traced(model, batch, number, promote=False)[1]
    terms = _not_finite(repeated)
    rows = origin.rows if origin is not None and origin.rows else ()
    rows = rows or tuple(sorted({row for found in terms.values() for row in found}))
    images = batch["index"].tolist()
    return Replay(
        step=record["step"],
        epoch=record["epoch"],
        images=images,
        same=values == record["terms"] and exact(repeated.loss)[0] == record["loss"],
        terms=terms,
        finite_in_float64=finite,
        origin=origin,
        input=bad_input,
        backward=backward,
        guilty=[(images[row], _name(trainer, images[row])) for row in rows],
    )


def _not_finite(step: LossOfStep) -> dict[str, list[int]]:
    """Rows that are not finite, by term; empty for a term that is a scalar."""
    found = {}
    for name, term in step.terms.items():
        if not term.isfinite().all():
            found[name] = (~term.isfinite()).nonzero()[:, 0].tolist() if term.ndim else []
    return found


def _bad_input(model: Any, batch: Mapping[str, Any]) -> str:
    """What is not finite before the step: a weight, or an entry of the batch."""
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            return f"`{name}`"
    for name, value in batch.items():
        tensors = value if isinstance(value, list | tuple) else [value]
        for tensor in tensors:
            if isinstance(tensor, Tensor) and name != "geometry" and not tensor.isfinite().all():
                return f"`{name}` of the batch"
    return ""


def _in_float64(
    model: Any, batch: Mapping[str, Any], number: int
) -> tuple[LossOfStep, Origin | None, str]:
    """The step in float64 with anomaly detection: its loss, where the first NaN is, and what the backward pass says."""
    model.double()
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with (
            torch.autograd.detect_anomaly(check_nan=True),
            warnings.catch_warnings(record=True) as caught,
        ):
            warnings.simplefilter("always")
            step, origin, loss = _traced(model, _double(batch), number, promote=True)
            backward = ""
            try:
                loss.backward()
            except RuntimeError as error:
                backward = _backward_message(str(error), [str(w.message) for w in caught])
    finally:
        torch.set_default_dtype(default)
    return step, origin, backward


def _traced(
    model: Any, batch: Mapping[str, Any], number: int, *, promote: bool
) -> tuple[LossOfStep, Origin | None, Tensor]:
    with (
        layers(model) as running,
        OriginTracer(running, len(batch["index"]), promote=promote) as tracer,
    ):
        loss = model.training_step(batch, number)
    return model.loss_history.pop(), tracer.origin, loss


def _double(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {name: _double(item) for name, item in value.items()}
    return [_double(item) for item in value] if isinstance(value, list | tuple) else value


def _backward_message(error: str, warned: list[str]) -> str:
    """What anomaly detection found: the function, and the line of the forward pass that it belongs to."""
    function = re.search(r"Function '(\w+)'", error)
    frames = re.findall(
        r'File "([^"]+)", line (\d+)', next((w for w in warned if "Traceback" in w), "")
    )
    place = innermost_place(frames)
    of = f", of {place}" if place else ""
    return f"{function[1]} makes NaN{of}" if function else error.split("\n")[0]


def _name(trainer: Any, index: int) -> str:
    data = trainer.datamodule
    if not hasattr(data, "locate"):
        return f"image {index}"
    split, number = data.locate(index)
    return data.sources[split].name(number)
