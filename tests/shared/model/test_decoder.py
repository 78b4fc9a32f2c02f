"""Cache, packing, odd shapes: ways of running the same model that must agree."""

import pytest
import torch

from shared.model.cache import KVCache
from shared.model.checkpoint import load_model
from shared.model.generate import generate
from shared.model.mfa import MFA
from shared.model.norm import rms_norm
from shared.model.rope import apply_rope, rope_tables


def assert_near(got, want):
    torch.testing.assert_close(got, want, atol=2e-4, rtol=0)


@pytest.fixture
def ids(vectors):
    return vectors["A.input_ids"]


def test_generation_with_cache_equals_without(tiny, ids):
    prompt = ids[:5].tolist()
    steps = list(generate(tiny, prompt, max_new_tokens=6))
    sequence = list(prompt)
    with torch.inference_mode():
        for step in steps:
            logits = tiny(torch.tensor(sequence))
            assert_near(step.logits_TV[-1], logits[-1])
            sequence.append(int(logits[-1].argmax()))
    assert [step.token_id for step in steps] == sequence[5:]


@torch.inference_mode()
def test_prompt_in_chunks_equals_whole(tiny, ids):
    cache = KVCache(tiny.config.text, 29)
    chunks = [tiny(chunk, cache=cache) for chunk in ids.split([1, 12, 9, 7])]
    assert cache.length == 29
    assert_near(torch.cat(chunks), tiny(ids))


@torch.inference_mode()
def test_batch_equals_rows(tiny, ids):
    batch = torch.stack((ids, ids.flip(0)))
    logits = tiny(batch)
    assert_near(logits[0], tiny(ids))
    assert_near(logits[1], tiny(ids.flip(0)))


@torch.inference_mode()
def test_packed_documents_equal_documents_alone(tiny, ids):
    packed = torch.cat((ids[:10], ids[3:20]))
    positions = torch.cat((torch.arange(10), torch.arange(17)))
    documents = torch.tensor([0] * 10 + [1] * 17)
    logits = tiny(packed, positions=positions, document_ids=documents)
    assert_near(logits, torch.cat((tiny(ids[:10]), tiny(ids[3:20]))))


@torch.inference_mode()
def test_later_tokens_do_not_change_earlier_logits(tiny, ids):
    changed = ids.clone()
    changed[20:] = 7
    assert_near(tiny(changed)[:20], tiny(ids)[:20])


@torch.inference_mode()
@pytest.mark.parametrize("tokens", [0, 1])
def test_few_tokens(tiny, ids, tokens):
    assert tiny(ids[:tokens]).shape == (tokens, tiny.config.text.vocab_size)


def test_mfa_equals_the_formula_head_by_head(tiny, vectors):
    attention: MFA = tiny.model.layers[0].self_attn
    text = tiny.config.text
    x_TH = torch.randn(9, text.hidden_size, generator=torch.Generator().manual_seed(0))
    rope = rope_tables(torch.arange(9), text.head_dim, text.rope_theta)
    with torch.inference_mode():
        got = attention(x_TH.unsqueeze(0), rope).squeeze(0)
        low = rms_norm(x_TH @ attention.q_proj.weight.T, attention.inter_norm.weight, 1e-5)
        keys = apply_rope((x_TH @ attention.k_proj.weight.T).unsqueeze(1), *rope).squeeze(1)
        values = x_TH @ attention.v_proj.weight.T
        want = torch.zeros_like(x_TH)
        width = text.head_dim
        for head in range(text.num_attention_heads):
            part = slice(head * width, (head + 1) * width)
            queries = low @ attention.wq.weight[part].T
            queries = apply_rope(queries.unsqueeze(1), *rope).squeeze(1)
            scores = queries @ keys.T / width**0.5
            scores = scores.masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
            want += scores.softmax(-1) @ values @ attention.o_proj.weight[:, part].T
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_rope_turns_pairs_half_a_head_apart():
    cos, sin = rope_tables(torch.tensor([3]), 4, 10000.0)
    rotated = apply_rope(torch.tensor([[[1.0, 0.0, 0.0, 0.0]]]), cos, sin)
    angle = torch.tensor(3.0)
    want = torch.stack((angle.cos(), torch.tensor(0.0), angle.sin(), torch.tensor(0.0)))
    torch.testing.assert_close(rotated[0, 0], want)


def test_rms_norm_multiplies_the_weight_after_the_cast():
    x = torch.randn(16, generator=torch.Generator().manual_seed(0)).bfloat16()
    weight = torch.full((16,), 3.0, dtype=torch.bfloat16)
    normal = x.float() / (x.float().square().mean() + 1e-5).sqrt()
    assert torch.equal(rms_norm(x, weight, 1e-5), normal.bfloat16() * weight)


@torch.inference_mode()
def test_wrong_use_is_refused(tiny, ids):
    with pytest.raises(ValueError, match=r"29 tokens do not fit the 8"):
        tiny(ids, cache=KVCache(tiny.config.text, 8))
    with pytest.raises(ValueError, match=r"2 rows for 0 tokens"):
        tiny(ids[:3], torch.zeros(2, 64))
    cache = KVCache(tiny.config.text, 8)
    tiny(ids[:3], cache=cache)
    with pytest.raises(ValueError, match="document_ids"):
        tiny(ids[:3], cache=cache, document_ids=torch.zeros(3, dtype=torch.int64))


def test_generate_stops_and_refuses(tiny, vectors):
    prompt = vectors["A.input_ids"].tolist()
    stop = vectors["A.generated_ids"][2].item()
    assert len(list(generate(tiny, prompt, max_new_tokens=9, stop_ids={stop}))) == 3
    with pytest.raises(ValueError, match="is empty"):
        next(generate(tiny, [], max_new_tokens=1))
    with pytest.raises(ValueError, match="context of 2048"):
        next(generate(tiny, prompt, max_new_tokens=2048))


def test_whole_model_in_bfloat16_and_under_autocast(tiny_dir, tiny, vectors):
    ids = vectors["C.expanded_ids"]
    pixels = torch.zeros(1, 3, 728, 728)
    half = load_model(tiny_dir, torch.bfloat16)
    with torch.inference_mode():
        want = tiny(ids, tiny.encode_images(pixels).flatten(0, 1))
        got = half(ids, half.encode_images(pixels).flatten(0, 1))
        assert got.dtype == torch.bfloat16
        assert (got.float() - want).square().mean() < 0.05 * want.square().mean()
        with torch.autocast("cpu", torch.bfloat16):
            got = tiny(ids, tiny.encode_images(pixels).flatten(0, 1))
        assert (got.float() - want).square().mean() < 0.05 * want.square().mean()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu(tiny_dir, tiny, vectors):
    model = load_model(tiny_dir, device="cuda")
    prompt = vectors["A.input_ids"].tolist()
    steps = list(generate(model, prompt, max_new_tokens=9))
    assert [step.token_id for step in steps] == vectors["A.generated_ids"].tolist()
    pixels = torch.zeros(1, 3, 504, 504)
    with torch.inference_mode():
        got = model.encode_images(pixels.cuda()).cpu()
        # TF32 convolutions keep about three digits.
        torch.testing.assert_close(got, tiny.encode_images(pixels), atol=1e-2, rtol=1e-2)
