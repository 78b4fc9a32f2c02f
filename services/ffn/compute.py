"""The thread that computes what attention instances ask for.

Dimension key: T tokens of all messages of a batch, H hidden
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import torch

from shared.dataplane.errors import ChannelClosed
from shared.dataplane.ffn_server import FfnBatch, FfnServer
from shared.dataplane.messages import Request
from shared.ffn.backend import Routing
from shared.kernels import FfnLayer, Kernels

logger = logging.getLogger(__name__)

_IDLE_S = 1.0


class FfnWorker:
    """Takes batches from `server`, runs the layer on them and answers, until the server closes."""

    def __init__(self, server: FfnServer, layers: Sequence[FfnLayer], kernels: Kernels) -> None:
        self._server = server
        self._layers = layers
        self._kernels = kernels
        self._thread = threading.Thread(target=self._run, name="ffn", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        self._server.close()
        self._thread.join(timeout_s)

    @torch.inference_mode()
    def _run(self) -> None:
        with self._kernels.calling_thread():
            self._serve()

    def _serve(self) -> None:
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

    def _compute(self, batch: FfnBatch) -> None:
        layer = self._layers[batch.layer]
        if len(batch.items) == 1:
            # In place, from slot to slot.
            request = batch.items[0].request
            ids_TK, weights_TK = request.expert_ids_TK, request.weights_TK
            routing = None
            if ids_TK is not None and weights_TK is not None:
                routing = Routing(ids_TK, weights_TK)
            layer(request.hidden_TH, routing, request.answer_TH)
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
    ids = [ids_TK for request in requests if (ids_TK := request.expert_ids_TK) is not None]
    weights = [w_TK for request in requests if (w_TK := request.weights_TK) is not None]
    if not ids:
        return None
    assert len(ids) == len(weights) == len(requests), "a layer is routed or dense"
    return Routing(torch.cat(ids), torch.cat(weights))
