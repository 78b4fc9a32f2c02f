"""One training step's loss. The loop knows the `TrainStep` protocol and nothing of its inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from services.trainer.pack import IGNORED, Batch
from services.trainer.pixels import normalize
from shared.model.moe import MoE
from shared.model.step3 import Step3ForConditionalGeneration

# Dimension key: R rows, L row length, T = R*L tokens, N learned tokens, E experts, H hidden,
# V vocabulary, F image tokens


@dataclass(frozen=True, slots=True)
class StepResult:
    """`loss` is differentiated; `metrics` are scalars that are only shown."""

    loss: Tensor
    metrics: dict[str, Tensor]


class TrainStep(Protocol):
    """Computes a batch's loss with `model`; the loop differentiates and updates."""

    model: Step3ForConditionalGeneration

    def __call__(self, batch: Batch) -> StepResult: ...


class NextToken:
    """Cross entropy of the learned tokens, plus the router's balance and z losses."""

    def __init__(
        self, model: Step3ForConditionalGeneration, *, balance: float, z_loss: float
    ) -> None:
        self.model = model
        self._balance, self._z_loss = balance, z_loss
        self._routers: list[tuple[Tensor, int]] = []
        for module in model.modules():
            if isinstance(module, MoE):
                module.gate.register_forward_hook(self._watch(module.top_k))

    def _watch(self, top_k: int) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_: nn.Module, __: object, logits_TE: Tensor) -> None:
            self._routers.append((logits_TE, top_k))

        return hook

    def __call__(self, batch: Batch) -> StepResult:
        self._routers.clear()
        logits_NV, targets_N = learned_logits(self.model, batch)
        loss = F.cross_entropy(logits_NV.float(), targets_N)
        is_token_T = (batch.documents_RL < batch.documents).flatten()
        metrics = {"loss": loss.detach()}
        balances, z_losses, violations = [], [], []
        for logits_TE, top_k in self._routers:
            balance, z_loss, violation = router_losses(logits_TE, is_token_T, top_k)
            balances.append(balance)
            z_losses.append(z_loss)
            violations.append(violation)
        if balances:
            balance, z_loss = torch.stack(balances).mean(), torch.stack(z_losses).mean()
            loss = loss + self._balance * balance + self._z_loss * z_loss
            metrics["balance"] = balance.detach()
            metrics["max_violation"] = torch.stack(violations).max()
        self._routers.clear()
        return StepResult(loss, metrics)


def learned_logits(model: Step3ForConditionalGeneration, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits and targets of the tokens that are learned, [N, V] and [N]."""
    features_FH = None
    if batch.feature_order_F.numel():
        parts = [
            model.encode_images(normalize(pixels)).flatten(0, 1)
            for pixels in (batch.crops_P3ZZ, batch.thumbnails_I3SS)
            if len(pixels)
        ]
        features_FH = torch.cat(parts)[batch.feature_order_F]
    hidden_RLH = model.model(
        model.embed(batch.ids_RL, features_FH),
        positions_BT=batch.positions_RL,
        document_ids_BT=batch.documents_RL,
    )
    learned_RL = batch.targets_RL != IGNORED
    return model.lm_head(hidden_RLH[learned_RL]), batch.targets_RL[learned_RL]


def router_losses(
    logits_TE: Tensor, is_token_T: Tensor, top_k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Balance loss E * sum_i f_i P_i, z-loss mean (logsumexp)^2, and max load / mean load - 1.

    f is the share of routed slots, P the mean probability (Switch Transformer, arXiv 2101.03961;
    z-loss: ST-MoE, arXiv 2202.08906). Padding counts in none.
    """
    logits_TE = logits_TE.float()
    weight_T1 = is_token_T.float().unsqueeze(-1) / is_token_T.sum()
    probabilities_TE = logits_TE.softmax(-1)
    mean_probability_E = (probabilities_TE * weight_T1).sum(0)
    chosen_TE = torch.zeros_like(probabilities_TE).scatter(
        1, probabilities_TE.topk(top_k, dim=-1).indices, 1.0
    )
    load_E = (chosen_TE * weight_T1).sum(0) / top_k
    experts = logits_TE.shape[-1]
    balance = experts * (load_E.detach() * mean_probability_E).sum()
    z_loss = (logits_TE.logsumexp(-1).square() * weight_T1.squeeze(-1)).sum()
    return balance, z_loss, (load_E.max() * experts - 1).detach()


@torch.no_grad()
def exact_share(model: Step3ForConditionalGeneration, batch: Batch) -> float:
    """Share of documents whose every learned token is the most probable one, given the ones before.

    That is exactly the share that greedy decoding reproduces word for word.
    """
    logits_NV, targets_N = learned_logits(model, batch)
    wrong_N = (logits_NV.argmax(-1) != targets_N).float()
    documents_N = batch.documents_RL[batch.targets_RL != IGNORED]
    mistakes_D = torch.zeros(batch.documents, device=wrong_N.device)
    mistakes_D.index_add_(0, documents_N, wrong_N)
    return float((mistakes_D == 0).float().mean())
