"""FFN shards as processes of their own, over shared memory: the model's tokens, one for one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from services.attention.decoder import Decoder
from services.attention.engine import Engine
from services.attention.sequence import Sampling, Sequence
from shared.dataplane.errors import PeerLost
from shared.dataplane.layout import Layout
from shared.dataplane.rendezvous import model_id, open_channels
from shared.ffn.backend import FfnBackend
from shared.kernels import AttentionDims, select_kernels
from shared.model.checkpoint import Checkpoint, load_model
from shared.model.generate import generate
from shared.rpc.health import Health, check
from shared.settings import Settings

TINY = Path(__file__).parents[1] / "data" / "step3-tiny"
TOKENS = 12


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint.open(TINY)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, 480, (n,), generator=generator).tolist() for n in (7, 40, 1, 70)]


@pytest.fixture(scope="module")
def wanted(prompts: list[list[int]]) -> list[list[int]]:
    model = load_model(TINY)
    return [
        [step.token_id for step in generate(model, prompt, max_new_tokens=TOKENS)]
        for prompt in prompts
    ]


class Shards:
    """`count` FFN processes, ready, and the way to them."""

    def __init__(self, count: int, home: Path, checkpoint: Checkpoint) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            base = probe.getsockname()[1] - Settings.port_offset("ffn")
        self.settings = Settings(home=home, port_base=base)
        self.checkpoint = checkpoint
        self.count = count
        environment = {
            **os.environ,
            "STEP3_HOME": str(home),
            "STEP3_MODEL": str(TINY),
            "STEP3_PORT_BASE": str(base),
            "STEP3_FFN__SHARDS": str(count),
            "STEP3_FFN__THREADS": "1",
        }
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "services.ffn", "--index", str(index)],
                env=environment,
                stderr=subprocess.DEVNULL,
            )
            for index in range(count)
        ]
        deadline = time.monotonic() + 60
        for index in range(count):
            while check(self.settings.address("ffn", index)) is not Health.SERVING:
                assert time.monotonic() < deadline, "the shards did not start"
                time.sleep(0.1)

    def connect(self, micro_batches: int = 1) -> FfnBackend:
        text = self.checkpoint.config.text
        return open_channels(
            [self.settings.address("ffn", index) for index in range(self.count)],
            Layout(
                hidden=text.hidden_size,
                top_k=text.moe_top_k,
                max_tokens=64,
                slots=2 * micro_batches,
            ),
            model_id=model_id(text),
            num_experts=text.moe_num_experts,
            peer_name="test",
            transport="shm",
            timeout_s=20,
            deadline_s=10,
        )

    def end(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(30)


@pytest.fixture(scope="module", params=[1, 2, 3], ids=lambda count: f"{count}-shards")
def shards(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    checkpoint: Checkpoint,
) -> Iterator[Shards]:
    made = Shards(request.param, tmp_path_factory.mktemp("home"), checkpoint)
    yield made
    made.end()


def engine_of(checkpoint: Checkpoint, ffn: FfnBackend, micro_batches: int) -> Engine:
    kernels = select_kernels("auto", AttentionDims.of(checkpoint.config.text), 16, threads=1)
    decoder = Decoder(checkpoint, kernels, num_blocks=64, block_size=16)
    return Engine(
        decoder,
        ffn,
        num_blocks=64,
        block_size=16,
        max_running=4,
        max_step_tokens=32,
        micro_batches=micro_batches,
        image_token_id=checkpoint.config.image_token_id,
    )


def sequences_of(prompts: list[list[int]]) -> list[Sequence]:
    return [
        Sequence(request_id=str(i), prompt_ids=prompt, sampling=Sampling(max_tokens=TOKENS))
        for i, prompt in enumerate(prompts)
    ]


def finish(engine: Engine, sequences: list[Sequence]) -> list[list[int]]:
    while engine.has_work():
        engine.step()
    return [sequence.token_ids[len(sequence.prompt_ids) :] for sequence in sequences]


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_greedy_tokens_equal_the_model(
    shards: Shards, prompts: list[list[int]], wanted: list[list[int]], micro_batches: int
) -> None:
    ffn = shards.connect(micro_batches)
    try:
        engine = engine_of(shards.checkpoint, ffn, micro_batches)
        sequences = sequences_of(prompts)
        for sequence in sequences:
            engine.add(sequence)
        assert finish(engine, sequences) == wanted
    finally:
        ffn.close()


def test_a_killed_shard_fails_the_step_and_a_new_one_repeats_it(
    tmp_path: Path, checkpoint: Checkpoint, prompts: list[list[int]], wanted: list[list[int]]
) -> None:
    first = Shards(2, tmp_path / "first", checkpoint)
    second = None
    try:
        engine = engine_of(checkpoint, first.connect(), 1)
        sequences = sequences_of(prompts)
        for sequence in sequences:
            engine.add(sequence)
        for _ in range(6):
            engine.step()
        first.processes[1].send_signal(signal.SIGKILL)
        first.processes[1].wait(10)
        started = time.monotonic()
        with pytest.raises(PeerLost, match="shard 1 of 2"):
            engine.step()
        assert time.monotonic() - started < 1
        engine.ffn.close()
        second = Shards(2, tmp_path / "second", checkpoint)
        engine.ffn = second.connect()
        assert finish(engine, sequences) == wanted
        engine.ffn.close()
    finally:
        first.end()
        if second is not None:
            second.end()
