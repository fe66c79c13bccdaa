"""Local causal language model of transformers, for corpus generation; transformers is imported on use."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.utilities.seed import isolate_rng

from ppssl.utils.device import resolve_device
from ppssl.utils.errors import UserError
from ppssl.utils.paths import AnyPath, expand_text

__all__ = ["LanguageModel"]


class LanguageModel:
    """Frozen causal language model of transformers. Reads safetensors only and runs no code from the hub.

    Args:
        name_or_path: A folder that ``save_pretrained`` wrote, or a hub id.
        device: Device of the model; ``"auto"``: a GPU if there is one.

    Raises:
        UserError: The model is missing, incomplete, or not a causal language model.
    """

    def __init__(self, name_or_path: AnyPath, device: str = "auto") -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        name_or_path = expand_text(name_or_path)
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
                f"`model`: cannot read `{name_or_path}` ({reason}). Give a folder with a causal language model "
                "and its tokenizer (safetensors), or a hub id if there is network access."
            ) from error
        self.model = model.to(resolve_device(device)).eval().requires_grad_(False)

    def answer(self, question: str, *, max_new_tokens: int, temperature: float, seed: int) -> str:
        """Sample an answer; an incomplete last line is removed.

        The question goes through the tokenizer's chat template; without one, a list marker follows the question.

        Args:
            question: The prompt.
            max_new_tokens: Token budget of the answer.
            temperature: Temperature of the sampling.
            seed: Seed of the sampling.

        Raises:
            UserError: The question fills the model's context.
        """
        inputs = self._inputs(question)
        start = inputs["input_ids"].shape[1]
        limit = getattr(self.model.config, "max_position_embeddings", None)
        budget = max_new_tokens if limit is None else min(max_new_tokens, limit - start)
        if budget < 1:
            raise UserError(
                f"The model's context of {limit} tokens is too short for the question of {start} tokens: use another "
                "model."
            )
        end_tokens = self._end_tokens()
        with isolate_rng():
            torch.manual_seed(seed)
            tokens = self.model.generate(
                **inputs,
                do_sample=True,
                temperature=temperature,
                max_new_tokens=budget,
                eos_token_id=end_tokens or None,
                pad_token_id=end_tokens[0] if end_tokens else 0,
            )[0, start:]
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        ends = torch.tensor(end_tokens, device=tokens.device)
        finished = bool(torch.isin(tokens, ends).any())
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
        names = ("input_ids", "attention_mask")
        return {name: inputs[name].to(self.model.device) for name in names}

    def _end_tokens(self) -> list[int]:
        """Tokens that end an answer: those of the generation configuration, else the tokenizer's, if any."""
        configured = self.model.generation_config.eos_token_id
        candidates = configured if isinstance(configured, list) else [configured]
        tokens = [token for token in candidates if token is not None]
        if not tokens and self.tokenizer.eos_token_id is not None:
            tokens = [self.tokenizer.eos_token_id]
        return tokens
