"""One attention instance: engine, worker and the way to the FFN, put together from settings."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import torch

from services.attention.decoder import Decoder
from services.attention.engine import Engine
from services.attention.service import AttentionServicer
from services.attention.validation import Limits
from services.attention.worker import EngineWorker
from shared.dataplane.layout import Layout
from shared.dataplane.rendezvous import model_id, open_channels
from shared.ffn.backend import FfnBackend
from shared.kernels import AttentionDims, Kernels, select_kernels
from shared.model.checkpoint import Checkpoint
from shared.settings import Settings

logger = logging.getLogger(__name__)

# How long requests outlive a lost FFN: a supervisor restarts a shard well within it.
_FFN_GRACE_S = 20.0
_FIRST_CONNECT_S = 60.0
_RECONNECT_S = 1.0


class AttentionInstance:
    """Opens the checkpoint when made; `load` reads the weights, joins the FFN, starts the engine.

    Args:
      settings: of the process.
      index: which instance on this machine, for the FFN's logs.
      on_serving: told, on the event loop, whether requests can be answered.
    """

    def __init__(self, settings: Settings, index: int, on_serving: Callable[[bool], None]) -> None:
        self._settings = settings
        self._name = f"attention-{index}"
        self._checkpoint = Checkpoint.open(settings.model)
        config, own = self._checkpoint.config, settings.attention
        self._loop = asyncio.get_running_loop()
        self._on_serving = on_serving
        self._kernels: Kernels | None = None
        self._worker: EngineWorker | None = None
        context = min(config.text.max_position_embedding, (own.num_blocks - 1) * own.block_size)
        self.servicer = AttentionServicer(
            Limits(
                vocab_size=config.text.vocab_size,
                hidden=config.text.hidden_size,
                context_tokens=context,
                block_size=own.block_size,
                image_token_id=config.image_token_id,
                eos_token_id=config.eos_token_id,
                defaults=settings.sampling,
            ),
            max_requests=own.max_running + own.max_waiting,
        )

    async def load(self) -> None:
        """Read this side's weights and open a channel to every FFN shard."""
        await asyncio.to_thread(self._load)

    def _load(self) -> None:
        own, config = self._settings.attention, self._checkpoint.config
        self._kernels = select_kernels(
            self._settings.kernels,
            AttentionDims.of(config.text),
            own.block_size,
            threads=own.threads,
        )
        decoder = Decoder(
            self._checkpoint, self._kernels, num_blocks=own.num_blocks, block_size=own.block_size
        )
        engine = Engine(
            decoder,
            self._connect(_FIRST_CONNECT_S),
            num_blocks=own.num_blocks,
            block_size=own.block_size,
            max_running=own.max_running,
            max_step_tokens=own.max_step_tokens,
            micro_batches=own.micro_batches,
            image_token_id=config.image_token_id,
        )
        self._worker = EngineWorker(
            engine,
            self._kernels,
            reconnect=lambda: self._connect(_RECONNECT_S),
            deliver=self.servicer.deliver,
            on_serving=self._say_serving,
            grace_s=_FFN_GRACE_S,
        )
        self.servicer.worker = self._worker
        self._worker.start()
        logger.info("%s kernels (%s)", self._kernels.name, self._kernels.reason)

    def _connect(self, timeout_s: float) -> FfnBackend:
        settings, config = self._settings, self._checkpoint.config.text
        layout = Layout(
            hidden=config.hidden_size,
            top_k=config.moe_top_k,
            max_tokens=settings.attention.max_step_tokens,
            slots=2 * settings.attention.micro_batches,
        )
        return open_channels(
            [settings.address("ffn", i) for i in range(settings.ffn.shards)],
            layout,
            model_id=model_id(config),
            num_experts=config.moe_num_experts,
            peer_name=self._name,
            transport=settings.transport,
            timeout_s=timeout_s,
            deadline_s=settings.attention.ffn_deadline_s,
        )

    def _say_serving(self, serving: bool) -> None:
        """Pass the engine thread's word on to the event loop."""
        self._loop.call_soon_threadsafe(self._on_serving, serving)

    def capabilities(self) -> dict[str, str]:
        """Facts for the server info."""
        facts = {
            "model": self._settings.model.name,
            "context_tokens": str(self.servicer.limits.context_tokens),
            "device": "cpu",
            "threads": str(torch.get_num_threads()),
        }
        if self._kernels is not None and self._worker is not None:
            load = self._worker.load()
            facts |= {
                "kernels": self._kernels.name,
                "kernels_reason": self._kernels.reason,
                "micro_batches": str(self._settings.attention.micro_batches),
                "running": str(load.running),
                "waiting": str(load.waiting),
                "kv_blocks": f"{load.kv_blocks_used} of {load.kv_blocks_total}",
                "kv_blocks_cached": str(load.kv_blocks_cached),
                "hit_tokens": str(load.hit_tokens),
                "preemptions": str(load.preemptions),
                "tokens_per_second": f"{load.tokens_per_second:.1f}",
                **self._worker.describe(),
            }
        return facts

    def close(self) -> None:
        """End the engine's thread and hang up on the shards."""
        if self._worker is not None:
            self._worker.stop()
