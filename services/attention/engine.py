"""The engine: schedule, run one step, sample, hand out tokens. One thread calls it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from services.attention.blocks import BlockPool
from services.attention.decoder import Decoder, MicroBatch
from services.attention.prefix import BlockHasher
from services.attention.sampler import sample
from services.attention.scheduler import Chunk, Scheduler
from services.attention.sequence import Finish, Sequence
from shared.ffn.backend import FfnBackend
from shared.kernels import AttentionBatch


@dataclass(frozen=True, slots=True)
class Output:
    """What one step gave to one sequence."""

    sequence: Sequence
    token_id: int | None
    finish: Finish | None


class Engine:
    def __init__(
        self,
        decoder: Decoder,
        ffn: FfnBackend,
        *,
        num_blocks: int,
        block_size: int,
        max_running: int,
        max_step_tokens: int,
        micro_batches: int,
        image_token_id: int,
    ) -> None:
        self._decoder = decoder
        self.config = decoder.config
        self.ffn = ffn
        self._image_token_id = image_token_id
        self._micro_batches = micro_batches
        pool = BlockPool(num_blocks, BlockHasher(block_size, image_token_id))
        # The longest sequence: what the model can place, and what the cache can hold.
        self.context_tokens = min(decoder.config.max_position_embedding, pool.capacity * block_size)
        self.scheduler = Scheduler(
            pool,
            max_running=max_running,
            max_step_tokens=max_step_tokens,
            context_tokens=self.context_tokens,
        )
        self._step = 0

    def add(self, sequence: Sequence) -> None:
        assert len(sequence.prompt_ids) < self.context_tokens, "checked at the door"
        self.scheduler.add(sequence)

    def has_work(self) -> bool:
        return self.scheduler.has_work()

    def step(self) -> list[Output]:
        """Run one step; [] when there is nothing to run.

        Raises:
          Step3Error: the FFN could not answer. Nothing was sampled and no sequence has moved, so
            that calling again repeats the step.
        """
        outputs = self._drop_aborted()
        chunks = self.scheduler.schedule()
        if not chunks:
            return outputs
        groups = _split(chunks, self._micro_batches)
        micro_batches = [self._micro_batch(group) for group in groups]
        self._step += 1
        logits_SV = self._decoder.step(self._step, micro_batches, self.ffn)
        self.scheduler.advance(chunks)
        sampling = [
            chunk.sequence for group in groups for chunk in group if chunk.sequence.num_pending == 0
        ]
        for sequence, token_id in zip(sampling, sample(logits_SV, sampling), strict=True):
            sequence.token_ids.append(token_id)
            finish = sequence.finish_after(token_id, self.context_tokens)
            if finish is not None:
                self.scheduler.remove(sequence)
            outputs.append(Output(sequence, token_id, finish))
        return outputs

    def fail_all(self) -> list[Sequence]:
        """Drop every sequence; they are returned so that their callers can be told."""
        sequences = [*self.scheduler.running, *self.scheduler.waiting]
        for sequence in sequences:
            self.scheduler.remove(sequence)
        return sequences

    def _drop_aborted(self) -> list[Output]:
        aborted = [
            sequence
            for sequence in (*self.scheduler.running, *self.scheduler.waiting)
            if sequence.aborted
        ]
        for sequence in aborted:
            self.scheduler.remove(sequence)
        return [Output(sequence, None, Finish.ABORTED) for sequence in aborted]

    def _micro_batch(self, chunks: list[Chunk]) -> MicroBatch:
        token_ids: list[int] = []
        positions: list[int] = []
        rows: list[int] = []
        sample_rows: list[int] = []
        features: list[Tensor] = []
        image_rows: list[int] = []
        for chunk in chunks:
            sequence, start = chunk.sequence, chunk.sequence.num_computed
            end = start + chunk.length
            if sequence.image_features is not None and start < len(sequence.prompt_ids):
                here = self._image_tokens(sequence, start, end)
                before = sequence.prompt_ids[:start].count(self._image_token_id)
                features.append(sequence.image_features[before : before + len(here)])
                image_rows += [len(token_ids) + i - start for i in here]
            token_ids += sequence.token_ids[start:end]
            positions += range(start, end)
            rows += [sequence.row] * chunk.length
            if chunk.samples:
                sample_rows.append(len(token_ids) - 1)
        ids = np.asarray(token_ids, dtype=np.int64)
        return MicroBatch(
            torch.from_numpy(ids),
            AttentionBatch(
                positions_T=_int32(positions),
                sequences_T=_int32(rows),
                block_tables_SM=self.scheduler.block_tables_SM,
            ),
            _int32(sample_rows),
            torch.cat(features) if image_rows else None,
            torch.tensor(image_rows) if image_rows else None,
        )

    def _image_tokens(self, sequence: Sequence, start: int, end: int) -> list[int]:
        """Positions of the prompt's image tokens in [start, end)."""
        end = min(end, len(sequence.prompt_ids))
        return [i for i in range(start, end) if sequence.prompt_ids[i] == self._image_token_id]


def _int32(values: list[int]) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.int32))


def _split(chunks: list[Chunk], parts: int) -> list[list[Chunk]]:
    """Up to `parts` groups of neighbours with about equally many tokens; none is empty."""
    total = sum(chunk.length for chunk in chunks)
    groups: list[list[Chunk]] = [[]]
    done = 0
    for chunk in chunks:
        # The boundary that lies nearest to an equal share.
        full = (done + chunk.length / 2) * parts >= total * len(groups)
        if groups[-1] and full and len(groups) < parts:
            groups.append([])
        groups[-1].append(chunk)
        done += chunk.length
    return groups
