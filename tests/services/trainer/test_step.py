"""The loss beside a plain computation of it, and what routers are taught."""

import pytest
import torch
from torch.nn import functional as F

from services.trainer.data import source
from services.trainer.data.sample import generator
from services.trainer.mixture import Batches
from services.trainer.pack import pack
from services.trainer.step import NextToken, exact_share, router_losses


def test_balance_is_one_when_even_and_rises_when_not():
    even_TE = torch.eye(4).repeat(8, 1) * 1e-3
    everyone = torch.ones(32, dtype=torch.bool)
    balance, _, violation = router_losses(even_TE, everyone, 1)
    assert float(balance) == pytest.approx(1, abs=1e-3)
    assert float(violation) == pytest.approx(0)
    lopsided_TE = torch.zeros(32, 4)
    lopsided_TE[:, 0] = 5
    balance, _, violation = router_losses(lopsided_TE, everyone, 1)
    assert float(balance) > 3
    assert float(violation) == pytest.approx(3)
    lopsided_TE[:16] = even_TE[:16]
    balance, _, _ = router_losses(lopsided_TE, everyone.index_fill(0, torch.arange(16, 32), 0), 1)
    assert float(balance) == pytest.approx(1, abs=1e-3)


def test_z_loss_is_the_mean_square_of_the_logsumexp():
    logits_TE = torch.tensor([[1.0, 2.0], [3.0, 0.5], [9.0, 9.0]])
    is_token_T = torch.tensor([True, True, False])
    _, z_loss, _ = router_losses(logits_TE, is_token_T, 1)
    expected = logits_TE[:2].exp().sum(-1).log().square().mean()
    assert float(z_loss) == pytest.approx(float(expected))


def test_loss_is_the_mean_cross_entropy_of_the_learned_tokens(model, renderer, sizes):
    examples = [
        renderer.chat(source("arithmetic")(generator("loss", i), "train")) for i in range(3)
    ]
    length = sum(len(example.ids) for example in examples) + 7
    batch = pack(iter(examples), 1, length, **sizes)
    with torch.no_grad():
        loss = NextToken(model, balance=0, z_loss=0)(batch).loss
        each = []
        for example in examples:
            logits_TV = model(torch.tensor(example.ids))
            for at, learned in enumerate(example.learned):
                if learned:
                    each.append(F.cross_entropy(logits_TV[at - 1], torch.tensor(example.ids[at])))
    assert float(loss) == pytest.approx(float(torch.stack(each).mean()), abs=1e-4)


def test_padding_changes_neither_loss_nor_router_losses(model, renderer, sizes):
    example = renderer.chat(source("arithmetic")(generator("pad"), "train"))
    step_fn = NextToken(model, balance=1.0, z_loss=1.0)
    losses = [
        float(step_fn(pack(iter([example]), 1, len(example.ids) + extra, **sizes)).loss.detach())
        for extra in (0, 50)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_router_losses_count_by_their_coefficients(model, tokenizer, recipe):
    batch = Batches(recipe, "chat", tokenizer, model.config)[0]
    plain, watched = (NextToken(model, balance=b, z_loss=0.0)(batch) for b in (0.0, 1.0))
    assert plain.loss.detach().equal(plain.metrics["loss"])
    added = float(watched.loss.detach() - watched.metrics["loss"])
    assert added == pytest.approx(float(watched.metrics["balance"]), abs=1e-4)


def test_exact_share_counts_whole_documents(model, renderer, config, monkeypatch, sizes):
    examples = [renderer.chat(source("manners")(generator("x", i), "train")) for i in range(3)]
    batch = pack(iter(examples), 1, sum(len(e.ids) for e in examples), **sizes)

    def all_right_but_one_token_of_the_first(_, batch):
        targets_N = batch.targets_RL[batch.targets_RL != -100]
        logits_NV = F.one_hot(targets_N, config.text.vocab_size).float()
        logits_NV[0] = logits_NV[0].roll(1)
        return logits_NV, targets_N

    monkeypatch.setattr(
        "services.trainer.step.learned_logits", all_right_but_one_token_of_the_first
    )
    assert exact_share(model, batch) == pytest.approx(2 / 3)
