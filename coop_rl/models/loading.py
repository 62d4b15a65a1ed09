"""Causal LMs from a Hugging Face folder: safetensors only, no code from the folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from coop_rl.errors import ModelError, first_line

if TYPE_CHECKING:  # slow to import, and the meta-controller loads no model
    from transformers import PreTrainedModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""torch's types by their names in the config."""


def load_causal_lm(
    path: str,
    dtype: torch.dtype | Literal["auto"],
    *,
    activation_checkpointing: bool = False,
    attention: str | None = None,
) -> PreTrainedModel:
    """Load a model for training, without dropout.

    Args:
        path: A Hugging Face folder, or a hub id.
        dtype: Type of the loaded weights; `auto`: the one they are stored in.
        activation_checkpointing: Recompute each layer's activations in the backward pass.
        attention: Which of its attention implementations transformers is to use; None: the
            model's default.

    Raises:
        ModelError: The folder is missing, holds no safetensors, is no causal LM, or the model does
            not have that attention.
    """
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=False,
            use_safetensors=True,
            low_cpu_mem_usage=True,
        )
    except (ImportError, OSError, ValueError, KeyError) as error:
        raise model_error(path, error) from error
    prepare_for_training(model, activation_checkpointing=activation_checkpointing)
    return model


def unloaded_causal_lm(
    path: str,
    dtype: torch.dtype,
    *,
    activation_checkpointing: bool = False,
    attention: str | None = None,
) -> PreTrainedModel:
    """Build what `load_causal_lm` loads, with weights that have a shape and no memory.

    Buffers, which no checkpoint holds, are real.

    Raises:
        ModelError: As for `load_causal_lm`.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        with _parameters_on_meta(), no_init_weights():
            model = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=attention, trust_remote_code=False
            )
        model.tie_weights()
    except (ImportError, OSError, ValueError, KeyError) as error:
        raise model_error(path, error) from error
    prepare_for_training(model, activation_checkpointing=activation_checkpointing)
    return model


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Give the parameters of modules built meanwhile no memory."""
    register = nn.Module.register_parameter

    def without_memory(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(module, name, param)
        if param is not None:
            module._parameters[name] = nn.Parameter(param.to("meta"), param.requires_grad)

    nn.Module.register_parameter = without_memory  # type: ignore
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def prepare_for_training(model: PreTrainedModel, *, activation_checkpointing: bool) -> None:
    """Remove dropout and set up recomputation."""
    # A policy gradient needs the log-probs of the policy that sampled, which had no dropout.
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for key in ("attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop"):
        if key in model.config.to_dict():
            setattr(model.config, key, 0.0)
    for module in model.modules():
        if "attention_dropout" in vars(module):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010 - mypy: not a Tensor or Module
    model.train()
    model.requires_grad_(True)
    if activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def load_skeleton(path: str) -> PreTrainedModel:
    """Build the model on the meta device: names and shapes without weights.

    Raises:
        ModelError: The folder has no usable config.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise model_error(path, error) from error


def model_error(path: str, error: Exception) -> ModelError:
    """Return what is wrong with a model's folder, in one line."""
    where = Path(path)
    if where.is_dir() and not list(where.glob("*.safetensors")):
        reason = "the folder holds no *.safetensors"
    else:
        reason = first_line(error)
    return ModelError(
        f"cannot load model {path}: {reason}; set model.path to a Hugging Face causal LM"
    )
