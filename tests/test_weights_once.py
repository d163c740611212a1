"""A gigabyte of weights, loaded, hooked, captured from and edited: the process grows by one copy of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig

from interp import Model

pytestmark = pytest.mark.slow
SIZES: dict[str, Any] = {
    "vocab_size": 49_152,
    "hidden_size": 1536,
    "intermediate_size": 6144,
    "num_attention_heads": 12,
}
CONFIGS = {
    "llama": LlamaConfig(num_hidden_layers=12, num_key_value_heads=12, tie_word_embeddings=True, **SIZES),
    "gpt2": GPT2Config(vocab_size=49_152, n_embd=1536, n_layer=14, n_head=12, bos_token_id=0, eos_token_id=0),
    "neox": GPTNeoXConfig(num_hidden_layers=12, **SIZES),  # q, k and v in one matrix, head by head
}
USED = """
import sys, threading, time
import transformer_lens
from interp import edits, load_model

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

before, peak, over = resident(), 0, threading.Event()
def watch():
    global peak
    while not over.is_set():
        peak = max(peak, resident())
        time.sleep(0.002)

watching = threading.Thread(target=watch)
watching.start()
model = load_model(sys.argv[1], "cpu", "bf16")
prompts = [[1, 2, 3, 4]]
model.logits(prompts)
model.capture(prompts, "blocks.*.hook_resid_post")
model.capture(prompts, "blocks.*.attn.hook_z")
with model.edit({"blocks.0.attn.hook_v": edits.ablate()}):
    model.last_logits(prompts)
over.set()
watching.join()
size = sum(p.numel() * p.element_size() for p in model.hf.parameters())
print((peak - before) / size)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc, which is Linux's")
@pytest.mark.parametrize("name", CONFIGS)
def test_a_gigabyte_of_weights_is_there_once(name: str, tiny_gpt2: Model, tmp_path: Path) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.bfloat16)
    model = model.to_empty(device="cpu")
    for weight in model.parameters():
        torch.nn.init.normal_(weight, 0, 0.02)
    model.tie_weights()
    model.save_pretrained(tmp_path)
    tiny_gpt2.tokenizer.save_pretrained(tmp_path)
    del model
    command = [sys.executable, "-c", USED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"OMP_NUM_THREADS": "2"})
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= 1.15, "of the weights, with what a forward needs"
