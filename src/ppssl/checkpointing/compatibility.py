"""Refusal of checkpoints that do not fit a model, in one line that names the setting."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from ppssl.utils.config import class_path_of
from ppssl.utils.errors import UserError
from ppssl.utils.instantiate import resolve_class

__all__ = ["check_class", "check_resumable", "describe_misfit", "differences"]

_WITHOUT_WEIGHTS = {
    *("pretrained", "init_seed", "seed", "batch_norm", "compile_encoder", "encoder_start"),
    *("optimizer", "base_lr", "lr", "weight_decay", "sgd_momentum", "warmup_fraction", "monitors"),
}
"""Arguments of the models that do not change which weights there are."""
_OF_THE_OPTIMIZER = ("optimizer", "encoder_start")
"""Arguments of the models that change what an optimizer keeps for each weight, or its parameter groups."""
_ABSENT = "absent"
_NEW_RUN = (
    "Resume with the settings of the checkpoint, or start a new run from its encoder "
    "(`--model.pretrained path/to/last.ckpt`)."
)


def check_class(model: Any, saved: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another kind of model; subclasses and base classes are taken.

    Args:
        model: The model.
        saved: Configuration of the model in the checkpoint.

    Raises:
        UserError: The classes are both known, and neither is derived from the other.
    """
    try:
        cls = resolve_class(saved["class_path"])
    except UserError:  # not imported: the weights decide
        return
    if not (issubclass(cls, type(model)) or isinstance(model, cls)):
        raise UserError(
            f"The checkpoint is of a `{cls.__name__}`, not of a `{type(model).__name__}`: give a recipe with "
            f"`model: {class_path_of(cls)}`."
        )


def check_resumable(model: Any, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that a training run cannot go on from.

    Args:
        model: The model.
        checkpoint: A checkpoint of ppssl.

    Raises:
        UserError: It holds weights only, or the state of another optimizer.
    """
    if "optimizer_states" not in checkpoint:
        raise UserError(
            "The checkpoint holds weights only (`save_weights_only`), from which no run can go on: start a new one "
            "from its encoder (`--model.pretrained path/to/last.ckpt`)."
        )
    before, now = (c["init_args"] for c in (checkpoint["ppssl"]["model"], model.config()))
    for name in _OF_THE_OPTIMIZER:
        if name in before and name in now and before[name] != now[name]:
            raise UserError(
                f"The checkpoint holds the state of another optimizer: `model.{name}` was {before[name]}, is "
                f"{now[name]}. {_NEW_RUN}"
            )


def describe_misfit(
    model: Any, saved: Mapping[str, Any], state_dict: Mapping[str, Tensor], reason: str
) -> str:
    """Say why weights do not fit a model: by the settings that differ, else by the names of the weights.

    Args:
        model: The model.
        saved: Configuration of the model in the checkpoint.
        state_dict: The weights of the checkpoint.
        reason: What torch says.
    """
    changed = [
        f"`{name}` was {old}, is {new}"
        for name, old, new in differences(saved, model.config(), "model")
        if not _WITHOUT_WEIGHTS & set(name.split("."))
    ]
    if not changed:
        own = model.state_dict()
        parts = {"missing": own.keys() - state_dict, "unexpected": state_dict.keys() - own.keys()}
        named = [f"{kind}: {', '.join(sorted(keys)[:5])}" for kind, keys in parts.items() if keys]
        changed = named or [" ".join(reason.split())]
    return f"The checkpoint does not fit the model: {'; '.join(changed)}. {_NEW_RUN}"


def differences(before: Any, now: Any, name: str) -> Iterator[tuple[str, str, str]]:
    """Yield name, old and new value of the arguments in which two configurations differ.

    Args:
        before: A configuration of :meth:`ppssl.utils.config.Configurable.config`, or plain data.
        now: Another one.
        name: Name of both.
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        before, now = dict(before), dict(now)
        if before.get("class_path") == now.get("class_path") is not None:
            before, now = before["init_args"], now["init_args"]
        if before.get("class_path") == now.get("class_path"):
            for key in before | now:
                yield from differences(
                    before.get(key, _ABSENT), now.get(key, _ABSENT), f"{name}.{key}"
                )
            return
    if isinstance(before, list | tuple) and isinstance(now, list | tuple):
        before, now = list(before), list(now)
    if before != now:
        yield name, _short(before), _short(now)


def _short(value: Any) -> str:
    if isinstance(value, Mapping) and "class_path" in value:
        return str(value["class_path"])
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
