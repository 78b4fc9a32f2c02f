from __future__ import annotations

import threading
import time

import pytest

from services.attention.worker import EngineWorker, Failure
from shared.dataplane.errors import PeerLost
from shared.errors import Unavailable
from shared.kernels import AttentionDims, select_kernels


class FlakyFfn:
    """The colocated FFN, until it is told to fail."""

    def __init__(self, inner):
        self.inner = inner
        self.failing = threading.Event()
        self.closed = False

    def dispatch(self, step, layer, micro_batch, hidden_TH, routing):
        # Half-way through the model, so that some layers have written their cache.
        if self.failing.is_set() and layer == 3:
            raise PeerLost("the shard is gone")
        return self.inner.dispatch(step, layer, micro_batch, hidden_TH, routing)

    def collect(self, ticket):
        return self.inner.collect(ticket)

    def describe(self):
        return {"ffn": "flaky"}

    def close(self):
        self.closed = True


class Ground:
    """A worker, what it delivered and what it said of itself."""

    def __init__(self, engine, reconnect, grace_s):
        self.outputs = []
        self.serving = []
        self.worker = EngineWorker(
            engine,
            select_kernels("reference", AttentionDims.of(engine.config), 16),
            reconnect=reconnect,
            deliver=self.outputs.extend,
            on_serving=self.serving.append,
            grace_s=grace_s,
        )
        self.worker.start()

    def wait(self, condition, timeout_s=20.0):
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "nothing happened"
            time.sleep(0.01)

    def tokens(self, sequence):
        return [
            o.token_id for o in self.outputs if o.sequence is sequence and hasattr(o, "token_id")
        ]


@pytest.fixture
def ground():
    made = []

    def make(*arguments, **options):
        made.append(Ground(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.worker.stop()


def test_streams_go_on_where_they_were_when_the_ffn_returns(
    ground, make_engine, local_ffn, make_sequences, prompts, greedy
):
    first, second = FlakyFfn(local_ffn), FlakyFfn(local_ffn)
    attempts = []

    def reconnect():
        attempts.append(1)
        if len(attempts) < 3:
            raise Unavailable("not yet", reason="FFN_UNREACHABLE")
        return second

    g = ground(make_engine(first), reconnect, grace_s=20)
    sequences = make_sequences(prompts[:3], max_tokens=30)
    for sequence in sequences:
        g.worker.submit(sequence)
    g.wait(lambda: len(g.outputs) > 12)
    first.failing.set()
    g.wait(lambda: sum(getattr(o, "finish", None) is not None for o in g.outputs) == 3)
    assert [g.tokens(s) for s in sequences] == [greedy(p, 30) for p in prompts[:3]]
    assert len(attempts) == 3
    assert first.closed
    assert g.serving == [False, True]


def test_requests_fail_when_the_ffn_stays_away_and_new_ones_work_once_it_is_back(
    ground, make_engine, local_ffn, make_sequences, prompts, greedy
):
    lost, found = FlakyFfn(local_ffn), FlakyFfn(local_ffn)
    lost.failing.set()
    back = threading.Event()

    def reconnect():
        if not back.is_set():
            raise Unavailable("FFN shard 0 does not answer", reason="FFN_UNREACHABLE")
        return found

    g = ground(make_engine(lost), reconnect, grace_s=0.2)
    (sequence,) = make_sequences(prompts[:1])
    g.worker.submit(sequence)
    g.wait(lambda: bool(g.outputs))
    (failure,) = g.outputs
    assert isinstance(failure, Failure)
    assert failure.error.reason == "FFN_UNREACHABLE"
    assert g.worker.load().kv_blocks_used == 0
    back.set()
    g.wait(lambda: g.serving == [False, True])
    (again,) = make_sequences(prompts[:1])
    g.worker.submit(again)
    g.wait(lambda: len(g.tokens(again)) == 12)
    assert g.tokens(again) == greedy(prompts[0], 12)


def test_abort_ends_a_running_request(ground, make_engine, make_sequences, prompts):
    g = ground(make_engine(), lambda: pytest.fail("not asked for"), grace_s=1)
    (sequence,) = make_sequences(prompts[:1], max_tokens=900)
    g.worker.submit(sequence)
    g.wait(lambda: len(g.outputs) > 3)
    g.worker.abort(sequence)
    g.wait(lambda: g.worker.load().running == 0)
    assert g.worker.load().kv_blocks_used == 0


def test_a_bug_loses_the_batch_and_not_the_service(
    ground, make_engine, local_ffn, make_sequences, prompts, greedy, monkeypatch, caplog
):
    engine = make_engine()
    g = ground(engine, lambda: pytest.fail("not asked for"), grace_s=1)
    step = engine.step

    def broken():
        monkeypatch.setattr(engine, "step", step)
        raise RuntimeError("secret detail")

    monkeypatch.setattr(engine, "step", broken)
    (sequence,) = make_sequences(prompts[:1])
    g.worker.submit(sequence)
    g.wait(lambda: bool(g.outputs))
    assert isinstance(g.outputs[0], Failure)
    assert "secret detail" not in str(g.outputs[0].error)
    assert "secret detail" in caplog.text
    (again,) = make_sequences(prompts[:1])
    g.worker.submit(again)
    g.wait(lambda: g.tokens(again) == greedy(prompts[0], 12))


def test_a_step_that_fails_with_every_backend_fails_its_requests(
    ground, make_engine, local_ffn, make_sequences, prompts, greedy
):
    poisoned = threading.Event()
    poisoned.set()
    made = []

    def backend():
        made.append(FlakyFfn(local_ffn))
        made[-1].failing = poisoned
        return made[-1]

    g = ground(make_engine(backend()), backend, grace_s=20)
    (sequence,) = make_sequences(prompts[:1])
    g.worker.submit(sequence)
    g.wait(lambda: bool(g.outputs))
    assert isinstance(g.outputs[0], Failure)
    assert g.outputs[0].error.reason == "PEER_LOST"
    assert len(made) == 4
    poisoned.clear()
    (again,) = make_sequences(prompts[:1])
    g.worker.submit(again)
    g.wait(lambda: g.tokens(again) == greedy(prompts[0], 12))
