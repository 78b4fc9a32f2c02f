"""The thread that computes what attention instances ask for.

Dimension key: T tokens of all messages of a batch, H hidden
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import torch

from shared.dataplane.channel import Request
from shared.dataplane.errors import ChannelClosed
from shared.dataplane.ffn_server import FfnBatch, FfnServer
from shared.ffn.backend import Routing
from shared.kernels import FfnLayer

logger = logging.getLogger(__name__)

_IDLE_S = 1.0


class FfnWorker:
    """Takes batches from `server`, runs the layer on them and answers, until the server closes."""

    def __init__(self, server: FfnServer, layers: Sequence[FfnLayer]) -> None:
        self._server = server
        self._layers = layers
        self._thread = threading.Thread(target=self._run, name="ffn", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        self._server.close()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            try:
                batch = self._server.next_batch(_IDLE_S)
            except ChannelClosed:
                return
            if batch is None:
                continue
            try:
                self._compute(batch)
            except Exception:
                # A bug: its senders must not wait for the deadline, nor take it for an answer.
                logger.exception("layer %d failed", batch.layer)
                self._server.fail(batch)
            else:
                self._server.respond(batch)

    @torch.inference_mode()
    def _compute(self, batch: FfnBatch) -> None:
        layer = self._layers[batch.layer]
        if len(batch.items) == 1:
            # In place, from slot to slot.
            request = batch.items[0].request
            layer(request.hidden_TH, _routing([batch.items[0].request]), request.answer_TH)
            return
        # Together, so that an expert's weights are read once for all senders.
        requests = [item.request for item in batch.items]
        hidden_TH = torch.cat([request.hidden_TH for request in requests])
        out_TH = torch.empty_like(hidden_TH)
        layer(hidden_TH, _routing(requests), out_TH)
        start = 0
        for request in requests:
            end = start + request.header.n_tokens
            request.answer_TH.copy_(out_TH[start:end])
            start = end


def _routing(requests: Sequence[Request]) -> Routing | None:
    """The routing of all tokens; None on a dense layer, where no message carries one."""
    ids = [request.expert_ids_TK for request in requests]
    weights = [request.weights_TK for request in requests]
    known_ids = [part for part in ids if part is not None]
    known_weights = [part for part in weights if part is not None]
    if not known_ids:
        return None
    assert len(known_ids) == len(known_weights) == len(requests), "a layer is routed or dense"
    if len(requests) == 1:
        return Routing(known_ids[0], known_weights[0])
    return Routing(torch.cat(known_ids), torch.cat(known_weights))
