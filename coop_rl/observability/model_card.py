"""The card of an exported model: what it is, how to load it, and what its training took.

Everything is read from the run directory: config.json, run.json, metrics.jsonl, evaluations/.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from coop_rl.config import RunConfig
from coop_rl.config.data import RowSource
from coop_rl.config.sizes import has_adapter, has_scaffold
from coop_rl.evaluation.estimators import Estimate
from coop_rl.evaluation.result import EvaluationResult
from coop_rl.metric_names import DEVICE_SECONDS, LEDGER, describe
from coop_rl.observability.sinks import read_jsonl

MERGED, PARTS, FACTORS = "a merged model", "base and adapter", "low-rank factors"
"""What a folder holds."""
LOADING = {
    MERGED: 'model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")',
    PARTS: 'model = AutoModelForCausalLM.from_pretrained(f"{folder}/base", dtype="auto")\n'
    'model = PeftModel.from_pretrained(model, f"{folder}/adapter")',
    FACTORS: 'model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")\n'
    "model = PeftModel.from_pretrained(model, folder)",
}
PAPER = "[arXiv 2509.06948](https://arxiv.org/abs/2509.06948)"


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card is about."""

    run: Path
    step: int
    """Steps trained."""
    config: RunConfig
    kind: str
    name: str
    is_on_hub: bool = False
    """Whether `name` is a repository."""
    error: str | None = None
    """What low-rank factors leave out."""


def model_card(facts: CardFacts) -> str:
    """Return the card, Markdown with the hub's header."""
    config = facts.config
    header: dict[str, Any] = {}
    if not Path(config.model.path).expanduser().is_dir():  # the hub refuses a path
        header["base_model"] = config.model.path
    header |= {
        "library_name": "transformers" if facts.kind == MERGED else "peft",
        "pipeline_tag": "text-generation",
        "tags": ["coop-rl", config.method.kind],
    }
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n",
        f"# {facts.name}\n",
        _summary(facts),
        "## Loading\n",
        _loading(facts),
        "## Method\n",
        _table(("setting", "value"), _method_rows(config)),
        "## Data\n",
        _table(("what", "from", "a step"), _data_rows(config)),
        _figures(facts),
        _costs(facts),
    ]
    return "\n".join(part for part in parts if part)


def _summary(facts: CardFacts) -> str:
    path = facts.run / "run.json"
    about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    versions = about.get("versions", {})
    origin = f"coop-rl {versions.get('coop-rl', '')}".strip()
    if about.get("git_commit"):
        origin += f", commit {about['git_commit']}"
    text = (
        f"`{_short(facts.config.model.path)}` trained by {origin} for {facts.step} of "
        f"{facts.config.run.num_steps} steps with the method `{facts.config.method.kind}` "
        f"({PAPER} describes `bridge`). `coop-rl.json` is the whole config.\n"
    )
    return f"{text}\n**{facts.error}.**\n" if facts.error else text


def _loading(facts: CardFacts) -> str:
    imports = ["from transformers import AutoModelForCausalLM, AutoTokenizer"]
    if facts.kind != MERGED:
        imports.insert(0, "from peft import PeftModel")
    folders = [f'folder = "{facts.name}"']
    if facts.is_on_hub and facts.kind == PARTS:  # a repository's folders are no models of the hub
        imports.append("from huggingface_hub import snapshot_download")
        folders = [f'folder = snapshot_download("{facts.name}")']
    if facts.kind == FACTORS:
        folders.append(f'base = "{facts.config.model.path}"')
    tokenizer = {PARTS: 'f"{folder}/base"', FACTORS: "base"}.get(facts.kind, "folder")
    lines = [
        *imports,
        "",
        *folders,
        LOADING[facts.kind],
        f"tokenizer = AutoTokenizer.from_pretrained({tokenizer})",
    ]
    template = facts.config.prompts.template
    prompt = "the tokenizer's chat template" if template is None else f"`{json.dumps(template)}`"
    return "```python\n" + "\n".join(lines) + f"\n```\n\nIts prompts in training: {prompt}.\n"


def _method_rows(config: RunConfig) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("method.kind", config.method.kind)]
    if config.method.is_guided:
        rows.append(("meta.guidance", ", ".join(config.meta.guidance)))
    if has_adapter(config):
        role = "a scaffold, no part of the policy" if has_scaffold(config) else "part of the policy"
        section = config.adapter
        rows.append(("adapter", f"rank {section.rank}, alpha {section.alpha:g}; {role}"))
    rows += [
        ("learner.lr", f"{config.learner.lr:g}"),
        ("reward.kind", config.reward.kind),
        ("rollout.samples_per_prompt", str(config.rollout.samples_per_prompt)),
        ("rollout.max_tokens", str(config.rollout.max_tokens)),
        ("run.seed", str(config.run.seed)),
    ]
    return rows


def _data_rows(config: RunConfig) -> list[Sequence[str]]:
    prompts, shown = config.prompts, config.demonstrations
    return [
        ("prompts", _origins(prompts, prompts.mixture), str(prompts.per_step)),
        ("demonstrations", _origins(shown, shown.mixture), str(shown.per_step)),
    ]


def _origins(section: RowSource, mixture: Sequence[RowSource]) -> str:
    return ", ".join(_short(source.origin) for source in mixture or [section])


def _short(name: str) -> str:
    """Return a hub id as it is, and of a path the end: a card is published."""
    return "/".join(Path(name).parts[-2:])


def _figures(facts: CardFacts) -> str:
    """Return the evaluations before training and at the checkpoint, with 95 % intervals."""
    before, after = (_evaluations(facts.run, step) for step in (0, facts.step))
    rows = [
        (name, figure, _interval(before[name].estimates.get(figure) if name in before else None),
         _interval(estimate))
        for name, result in after.items()
        for figure, estimate in result.estimates.items()
    ]  # fmt: skip
    if not rows:
        return ""
    columns = ("set", "figure", "before", f"after {facts.step} steps")
    return f"## Figures\n\nWith 95 % intervals.\n\n{_table(columns, rows)}"


def _evaluations(run: Path, step: int) -> dict[str, EvaluationResult]:
    files = sorted((run / f"evaluations/step-{step:06d}").glob("*.json"))
    results = [EvaluationResult.read(path) for path in files]
    return {result.name: result for result in results}


def _interval(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _costs(facts: CardFacts) -> str:
    """Return the run's ledger at the checkpoint."""
    path = facts.run / "metrics.jsonl"
    rows = read_jsonl(path) if path.is_file() else []
    spent = [row for row in rows if row["step"] < facts.step and f"{LEDGER}updates" in row]
    if not spent:
        return ""
    totals = {k: v for k, v in spent[-1].items() if k.startswith((LEDGER, DEVICE_SECONDS)) and v}
    cells = [(f"`{name}`", f"{value:,.4g}" if value >= 1e9 else f"{value:,.0f}", _meaning(name))
             for name, value in totals.items()]  # fmt: skip
    return f"## Costs\n\n{_table(('total', 'value', 'meaning'), cells)}"


def _meaning(name: str) -> str:
    metric = describe(name)
    return f"{metric.unit}: {metric.meaning}" if metric else ""


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; a bar in a cell would end it."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in line)} |"
                     for line in lines) + "\n"  # fmt: skip
