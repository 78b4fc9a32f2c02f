"""One FFN shard: its weights, its data plane and what it says of itself."""

from __future__ import annotations

import asyncio
import logging

from services.ffn.compute import FfnWorker
from shared.dataplane.ffn_server import FfnServer
from shared.dataplane.rendezvous import DataPlaneServicer, ShardInfo, model_id
from shared.ffn.weights import Shard, load_ffn_weights
from shared.kernels import AttentionDims, Kernels, select_kernels
from shared.model.checkpoint import Checkpoint
from shared.settings import Settings

logger = logging.getLogger(__name__)


class FfnService:
    """Opens the checkpoint when made; `load` reads the weights and starts the worker."""

    def __init__(self, settings: Settings, index: int) -> None:
        self._settings = settings
        self._checkpoint = Checkpoint.open(settings.model)
        self._shard = Shard(index, settings.ffn.shards)
        config = self._checkpoint.config.text
        experts = self._shard.part(config.moe_num_experts)
        self._experts = experts
        self._server = FfnServer(index)
        self._worker: FfnWorker | None = None
        self._kernels: Kernels | None = None
        directory = settings.home / "sockets"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.servicer = DataPlaneServicer(
            self._server,
            ShardInfo(
                rank=index,
                num_shards=self._shard.count,
                expert_begin=experts.start,
                expert_end=experts.stop,
                hidden=config.hidden_size,
                top_k=config.moe_top_k,
                model_id=model_id(config),
            ),
            directory,
            settings.host,
        )

    async def load(self) -> None:
        """Read this shard's weights and start computing."""
        await asyncio.to_thread(self._load)

    def _load(self) -> None:
        text = self._checkpoint.config.text
        self._kernels = select_kernels(
            self._settings.kernels,
            AttentionDims.of(text),
            self._settings.attention.block_size,
            threads=self._settings.ffn.threads,
            # From the other end than attention.
            first_core=-1 - self._shard.rank,
        )
        layers = [
            self._kernels.ffn_layer(weights)
            for weights in load_ffn_weights(self._checkpoint, self._shard)
        ]
        self._worker = FfnWorker(self._server, layers, self._kernels)
        self._worker.start()
        logger.info(
            "shard %d of %d: experts %d to %d, %s kernels",
            self._shard.rank,
            self._shard.count,
            self._experts.start,
            self._experts.stop - 1,
            self._kernels.name,
        )

    def capabilities(self) -> dict[str, str]:
        """Facts for the server info."""
        stats = self._server.stats()
        facts = {
            "model": self._settings.model.name,
            "shard": f"{self._shard.rank} of {self._shard.count}",
            "experts": f"{self._experts.start}-{self._experts.stop - 1}",
            "peers": str(stats.peers),
            "peers_lost": str(stats.peers_lost),
            "batches": str(stats.batches),
            "messages": str(stats.messages),
            "tokens": str(stats.tokens),
        }
        if self._kernels is not None:
            facts |= {"kernels": self._kernels.name, "kernels_reason": self._kernels.reason}
        return facts

    def close(self) -> None:
        """Hang up on the peers and end the worker."""
        if self._worker is not None:
            self._worker.stop()
        else:
            self._server.close()
