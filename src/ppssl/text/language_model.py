"""A local language model that answers one question: transformers, imported only where it is needed."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng

from ppssl.utils.device import resolve_device
from ppssl.utils.errors import UserError

__all__ = ["LanguageModel"]


class LanguageModel:
    """A causal language model of transformers, frozen. Reads safetensors only and runs no code from the hub.

    Args:
        name_or_path: A folder as ``save_pretrained`` leaves it, or a hub id.
        device: Where it runs; ``"auto"``: a GPU where there is one.

    Raises:
        UserError: It is not there, not complete, or no causal language model.
    """

    def __init__(self, name_or_path: str, device: str = "auto") -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(
                name_or_path, trust_remote_code=False
            )
            model: Any = AutoModelForCausalLM.from_pretrained(
                name_or_path, trust_remote_code=False, use_safetensors=True, dtype="auto"
            )
        except (OSError, ValueError) as error:
            reason = str(error).strip().split("\n")[0]
            raise UserError(
                f"`model`: cannot read `{name_or_path}` ({reason}). Give a folder that holds a causal language model "
                "with tokenizer (safetensors), or a hub id where there is network."
            ) from error
        self.model = model.to(resolve_device(device)).eval().requires_grad_(False)

    def answer(self, question: str, *, max_new_tokens: int, temperature: float, seed: int) -> str:
        """What it writes, by sampling; without the last line where that was cut off.

        Through the tokenizer's chat template where it has one; a model without is given the question and the sign of
        a list's first line.
        """
        inputs = self._inputs(question)
        start = inputs["input_ids"].shape[1]
        limit = getattr(self.model.config, "max_position_embeddings", None)
        room = max_new_tokens if limit is None else min(max_new_tokens, limit - start)
        if room < 1:
            raise UserError(f"The model reads {limit} tokens, and the question has {start}.")
        ends = self._ends()
        with isolate_rng():
            torch.manual_seed(seed)
            tokens = self.model.generate(
                **inputs,
                do_sample=True,
                temperature=temperature,
                max_new_tokens=room,
                eos_token_id=ends or None,
                pad_token_id=ends[0] if ends else 0,
            )[0, start:]
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        finished = bool(torch.isin(tokens, torch.tensor(ends, device=tokens.device)).any())
        return text if finished else text[: text.rfind("\n") + 1]

    def _inputs(self, question: str) -> dict[str, Any]:
        if self.tokenizer.chat_template is None:
            inputs = self.tokenizer(f"{question}\n-", return_tensors="pt")
        else:
            inputs = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": question}],
                add_generation_prompt=True,
                return_dict=True,
                return_tensors="pt",
            )
        known = ("input_ids", "attention_mask")
        return {name: inputs[name].to(self.model.device) for name in known}

    def _ends(self) -> list[int]:
        """The tokens with which it ends an answer."""
        configured = self.model.generation_config.eos_token_id
        ends = configured if isinstance(configured, list) else [configured]
        known = [end for end in ends if end is not None]
        return known or [end for end in [self.tokenizer.eos_token_id] if end is not None]
