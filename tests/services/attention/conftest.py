from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from services.attention.decoder import Decoder
from services.attention.engine import Engine
from services.attention.sequence import Sampling, Sequence
from shared.ffn.backend import FfnBackend
from shared.ffn.local import LocalFfn
from shared.ffn.weights import Shard, load_ffn_weights
from shared.kernels import AttentionDims, select_kernels
from shared.model.checkpoint import Checkpoint, load_model
from shared.model.generate import generate
from shared.model.step3 import Step3ForConditionalGeneration

TINY = Path(__file__).parents[2] / "data" / "step3-tiny"

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    return Checkpoint.open(TINY)


@pytest.fixture(scope="session")
def model() -> Step3ForConditionalGeneration:
    return load_model(TINY)


@pytest.fixture(scope="session")
def local_ffn(checkpoint: Checkpoint) -> LocalFfn:
    text = checkpoint.config.text
    kernels = select_kernels("reference", AttentionDims.of(text), 16)
    weights = load_ffn_weights(checkpoint, Shard(0, 1))
    return LocalFfn([kernels.ffn_layer(layer) for layer in weights], text.hidden_size)


@pytest.fixture(scope="session")
def make_engine(checkpoint: Checkpoint, local_ffn: LocalFfn) -> Callable[..., Engine]:
    def make(ffn: FfnBackend | None = None, kernels: str = "reference", **changes: int) -> Engine:
        text = checkpoint.config.text
        options = {
            "num_blocks": 64,
            "block_size": 16,
            "max_running": 8,
            "max_step_tokens": 64,
            "micro_batches": 1,
            **changes,
        }
        chosen = select_kernels(kernels, AttentionDims.of(text), options["block_size"], threads=1)  # type: ignore[arg-type]
        decoder = Decoder(
            checkpoint,
            chosen,
            num_blocks=options["num_blocks"],
            block_size=options["block_size"],
        )
        return Engine(
            decoder,
            ffn or local_ffn,
            image_token_id=checkpoint.config.image_token_id,
            **options,
        )

    return make


@pytest.fixture(scope="session")
def greedy(model: Step3ForConditionalGeneration) -> Callable[..., list[int]]:
    """The one-process reference: greedy continuation of a prompt."""

    def run(prompt: list[int], tokens: int, features_FH: torch.Tensor | None = None) -> list[int]:
        steps = generate(model, prompt, features_FH, max_new_tokens=tokens)
        return [step.token_id for step in steps]

    return run


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    lengths = (5, 40, 17, 33, 1, 90, 16, 2)
    return [torch.randint(0, 480, (n,), generator=generator).tolist() for n in lengths]


def sequences_of(prompts: list[list[int]], **sampling: object) -> list[Sequence]:
    sampling.setdefault("max_tokens", 12)
    return [
        Sequence(request_id=str(i), prompt_ids=prompt, sampling=Sampling(**sampling))  # type: ignore[arg-type]
        for i, prompt in enumerate(prompts)
    ]


def run_all(engine: Engine, sequences: list[Sequence]) -> list[list[int]]:
    """Completions of all sequences, added at once."""
    for sequence in sequences:
        engine.add(sequence)
    while engine.has_work():
        engine.step()
    return [sequence.token_ids[len(sequence.prompt_ids) :] for sequence in sequences]


@pytest.fixture(scope="session")
def make_sequences() -> Callable[..., list[Sequence]]:
    return sequences_of


@pytest.fixture(scope="session")
def complete() -> Callable[[Engine, list[Sequence]], list[list[int]]]:
    return run_all
