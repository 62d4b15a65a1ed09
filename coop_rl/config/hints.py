"""A pydantic error in one line, and what the user may have meant; called by `load`.

Names of TRL, verl and OpenRLHF are known, as are ours in the wrong section.
"""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from coop_rl.config.section_path import SectionPath, all_fields

EXCERPT_CHARACTERS = 80
"""Characters of a bad value that an error quotes."""
UNKNOWN_KEYS = ("extra_forbidden", "invalid_key")
NAMES_ELSEWHERE = {
    "run.name": "experiment_name run_name wandb_run_name exp_name",
    "run.dir": "output_dir save_path default_local_dir ckpt_path checkpoint_dir",
    "run.num_steps": "max_steps total_training_steps total_steps num_train_steps num_episodes "
    "total_epochs num_train_epochs",
    "model.path": "model_name_or_path model_name pretrain pretrained_model_name_or_path model_path",
    "model.dtype": "bf16 torch_dtype precision param_dtype",
    "model.max_length": "max_model_len max_seq_length model_max_length max_len",
    "method.mix": "sft_loss_coef rl_weight",
    "method.cold_start_steps": "sft_steps sft_first_steps num_sft_steps",
    "method.rl.kind": "advantage_estimator adv_estimator loss_type",
    "method.rl.clip": "clip_ratio epsilon eps_clip cliprange clip_eps",
    "method.rl.clip_low": "clip_ratio_low epsilon_low eps_clip_low",
    "method.rl.clip_high": "clip_ratio_high epsilon_high eps_clip_high",
    "method.rl.dual_clip": "clip_ratio_c",
    "method.rl.entropy_weight": "entropy_coeff entropy_coef ent_coef entropy_loss_coef",
    "method.rl.kl.weight": "kl_coef init_kl_coef kl_loss_coef kl_penalty_coef beta",
    "method.rl.kl.estimator": "kl_estimator kl_loss_type kl_penalty",
    "method.rl.normalize_by_std": "scale_rewards norm_adv_by_std_in_grpo",
    "adapter.rank": "r lora_r lora_rank",
    "adapter.alpha": "lora_alpha",
    "adapter.targets": "target_modules lora_target_modules",
    "prompts.path": "train_files prompt_data train_dataset dataset_path data_path train_file",
    "prompts.dataset": "dataset_name hf_dataset",
    "prompts.prompt_column": "prompt_key input_key question_key",
    "prompts.answer_column": "label_key answer_key",
    "prompts.template": "input_template apply_chat_template chat_template prompt_template",
    "prompts.system": "system_prompt",
    "prompts.per_step": "train_batch_size rollout_batch_size num_prompts_per_step "
    "generation_batch_size gen_batch_size",
    "demonstrations.path": "sft_data sft_path",
    "rollout.samples_per_prompt": "n num_generations n_samples_per_prompt group_size rollout_n "
    "num_samples_per_prompt num_return_sequences",
    "rollout.max_tokens": "max_new_tokens max_completion_length response_length generate_max_len "
    "max_response_length",
    "rollout.num_actors": "vllm_num_engines num_engines",
    "rollout.tensor_parallel_size": "tensor_model_parallel_size vllm_tensor_parallel_size tp_size",
    "rollout.gpu_memory_utilization": "vllm_gpu_memory_utilization",
    "rollout.max_policy_lag": "max_staleness staleness async_level",
    "rollout.mask_truncated": "mask_truncated_completions overlong_filter",
    "learner.lr": "learning_rate actor_learning_rate",
    "learner.lr_schedule": "lr_scheduler_type lr_scheduler warmup_style",
    "learner.warmup_steps": "warmup_ratio lr_warmup_steps num_warmup_steps lr_warmup_ratio "
    "lr_warmup_steps_ratio",
    "learner.betas": "adam_beta1 adam_beta2 adam_betas",
    "learner.max_grad_norm": "grad_clip max_norm gradient_clipping clip_grad",
    "learner.num_epochs": "ppo_epochs num_iterations max_epochs",
    "learner.num_minibatches": "ppo_mini_batch_size mini_batch_size num_mini_batches "
    "gradient_accumulation_steps steps_per_generation",
    "learner.micro_batch_tokens": "per_device_train_batch_size micro_train_batch_size "
    "ppo_micro_batch_size_per_gpu ppo_max_token_len_per_gpu micro_batch_size",
    "learner.num_ranks": "actor_num_gpus_per_node n_gpus_per_node num_processes world_size",
    "learner.activation_checkpointing": "gradient_checkpointing enable_gradient_checkpointing",
    "learner.attention": "attn_implementation flash_attn use_flash_attention_2",
    "learner.packing": "packing_samples use_remove_padding padding_free",
    "learner.offload": "adam_offload optimizer_offload param_offload cpu_offload",
    "learner.zero_stage": "zero deepspeed_stage",
    "placement.colocated": "colocate_all_models vllm_mode hybrid_engine colocate",
    "reward.function": "reward_funcs reward_function reward_fn custom_reward_function",
    "evaluation.every": "eval_steps test_freq eval_interval val_interval",
    "evaluation.data": "val_files eval_dataset eval_data val_data",
    "checkpoint.every": "save_steps save_freq save_interval",
    "checkpoint.keep": "save_total_limit max_ckpt_num max_ckpt_to_keep",
    "observability.tensorboard": "report_to logger use_wandb use_tensorboard",
}
"""Our fields, and what other frameworks call them."""
OURS = {name: field for field, names in NAMES_ELSEWHERE.items() for name in names.split()}
KINDS_ELSEWHERE = {
    "reinforce++": "reinforce_pp", "reinforce_plus_plus": "reinforce_pp", "drgrpo": "dr_grpo",
    "ppo_clip": "ppo", "group_norm": "grpo",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a config."""

    field: str
    """Dotted name of the field or section; empty: a rule between sections."""
    text: str
    """One line."""
    is_rule: bool = False
    """Whether it is a rule over several fields, which its text names."""


def describe(error: ValidationError) -> Problem:
    """Return the first problem of a config; an unknown key, where one is missing that it may be."""
    found = error.errors()
    first = next((one for one in found if one["type"] in UNKNOWN_KEYS), found[0])
    section = SectionPath([str(part) for part in first["loc"][:-1]], names_variants=True)
    # Where variants are open, the location ends with the name of one, which is no field.
    leaf = [] if section.has_open_variants else [str(part) for part in first["loc"][-1:]]
    dotted = ".".join([*section.names, *leaf])
    value = first["input"]
    if first["type"] == "extra_forbidden":
        return Problem(dotted, f"unknown config key {dotted}; {_meant(section, dotted, value)}")
    if first["type"] == "missing":
        return Problem(dotted, f"{dotted} is missing; add it to the config")
    if first["type"] == "union_tag_invalid":
        context = first.get("ctx", {})
        kinds = str(context.get("expected_tags", "")).replace("'", "")
        kind = str(context.get("tag"))
        said = f"unknown {dotted}.kind {kind!r}; allowed: {kinds}"
        return Problem(f"{dotted}.kind", said + _meant_kind(dotted, kind, kinds.split(", ")))
    message = first["msg"].removeprefix("Value error, ")
    if not dotted:
        return Problem(dotted, message, is_rule=True)
    if isinstance(value, dict):  # a rule of a whole section says itself what it got
        return Problem(dotted, f"{dotted}: {message}", is_rule=True)
    if first["type"] != "value_error" and SectionPath(dotted.split(".")).fields:
        message = "must be a section, with fields of its own"
    elif first["type"] == "string_type":
        message += ", in quotes if need be"
    return Problem(dotted, f"{dotted}: {message}, got {_excerpt(value)}")


def _meant(section: SectionPath, dotted: str, value: Any) -> str:
    """Say which field an unknown one may stand for."""
    leaf = dotted.rpartition(".")[2]
    for name in (*_names_in(value), leaf):
        if field := _known(name, section):
            return f"did you mean {field}?"
    nearest = difflib.get_close_matches(leaf, section.fields, n=1)
    if nearest:
        return f"did you mean {'.'.join([*section.names, *nearest])}?"
    return (
        f"allowed: {', '.join(sorted('.'.join([*section.names, name]) for name in section.fields))}"
    )


def _known(name: str, section: SectionPath) -> str | None:
    """Return the field that another framework calls so, or that we have in another section."""
    field = OURS.get(name.lower().replace("-", "_"))
    if field:
        own = field.rpartition(".")[2]
        return ".".join([*section.names, own]) if own in section.fields else field
    places = all_fields().get(name, ())
    return " or ".join(places) if 0 < len(places) <= 2 else None


def _names_in(value: Any) -> Iterator[str]:
    """Yield the names of the fields in a section that we do not have."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _names_in(inner) if isinstance(inner, dict) else (str(name),)


def _meant_kind(dotted: str, kind: str, kinds: list[str]) -> str:
    """Say what else a kind may be: an estimator for a method, the reverse, or misspelt."""
    name = kind.lower().replace("-", "_")
    name = KINDS_ELSEWHERE.get(name, name)
    others = {"method": ("method.rl", "an estimator"), "method.rl": ("method", "a method")}
    other, what = others.get(dotted, ("", ""))
    if other and name in SectionPath(other.split(".")).kinds:
        return f"; {name} is {what}: set {other}.kind {name}"
    nearest = [name] if name in kinds else difflib.get_close_matches(name, kinds, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _excerpt(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= EXCERPT_CHARACTERS else f"{text[:EXCERPT_CHARACTERS]}..."
