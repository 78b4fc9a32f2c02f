"""The engine's thread: takes requests in, hands tokens out, and mends the way to the FFN."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from services.attention.engine import Engine, Output
from services.attention.sequence import Sequence
from shared.errors import Step3Error, Unavailable
from shared.ffn.backend import FfnBackend
from shared.kernels import Kernels

logger = logging.getLogger(__name__)

# How often a lost FFN is looked for, and how long an idle thread sleeps at most.
_RETRY_S = 0.25
_IDLE_S = 1.0
# A step that fails this often, with a new backend each time, fails because of what is in it.
_MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Failure:
    """A sequence that ended without a token, and why."""

    sequence: Sequence
    error: Step3Error


@dataclass(frozen=True, slots=True)
class Load:
    running: int
    waiting: int
    kv_blocks_used: int
    kv_blocks_total: int
    kv_blocks_cached: int
    hit_tokens: int
    preemptions: int
    tokens_per_second: float


class EngineWorker:
    """Runs `engine` in a thread of its own.

    When the FFN is lost, the step that failed is repeated as soon as `reconnect` gives a new
    backend: the keys and values it wrote are written again, so that streams go on with the tokens
    that they would have had. A step that keeps failing with new backends fails its requests, so
    that no batch can hold up the service. After `grace_s` without a backend, the requests fail
    with UNAVAILABLE and new ones are refused until the FFN is back.

    Args:
      engine: owned by the thread from `start` on.
      kernels: what the engine runs.
      reconnect: a new backend; raises Step3Error while the FFN cannot be reached.
      deliver: takes what a step gave; called in the thread, must not block.
      on_serving: told whether requests can be answered, at every change.
      grace_s: how long requests outlive the FFN.
    """

    def __init__(
        self,
        engine: Engine,
        kernels: Kernels,
        *,
        reconnect: Callable[[], FfnBackend],
        deliver: Callable[[list[Output | Failure]], None],
        on_serving: Callable[[bool], None],
        grace_s: float,
    ) -> None:
        self._engine = engine
        self._kernels = kernels
        self._reconnect = reconnect
        self._deliver = deliver
        self._on_serving = on_serving
        self._grace_s = grace_s
        self._inbox: list[Sequence] = []
        self._wake = threading.Condition()
        self._stopping = False
        self._failed_attempts = 0
        self._tokens = 0
        self._rate = 0.0
        self._rate_since = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread after its current step; what still runs is dropped."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout_s)
        self._engine.ffn.close()

    def submit(self, sequence: Sequence) -> None:
        with self._wake:
            self._inbox.append(sequence)
            self._wake.notify()

    def abort(self, sequence: Sequence) -> None:
        """Free what the sequence holds at the next step; no error if it has ended."""
        sequence.aborted = True
        with self._wake:
            self._wake.notify()

    def load(self) -> Load:
        scheduler = self._engine.scheduler
        return Load(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting) + len(self._inbox),
            kv_blocks_used=scheduler.pool.num_used,
            kv_blocks_total=scheduler.pool.capacity,
            kv_blocks_cached=scheduler.pool.num_cached,
            hit_tokens=scheduler.pool.hit_tokens,
            preemptions=scheduler.num_preemptions,
            tokens_per_second=self._rate,
        )

    def describe(self) -> dict[str, str]:
        return self._engine.ffn.describe()

    def _run(self) -> None:
        with self._kernels.calling_thread():
            self._serve()

    def _serve(self) -> None:
        while self._take_in():
            try:
                outputs = self._engine.step()
            except Step3Error as error:
                logger.warning("step failed: %s", error)
                self._failed_attempts += 1
                self._mend(error)
                if self._failed_attempts >= _MAX_ATTEMPTS:
                    self._failed_attempts = 0
                    self._fail(error)
            except Exception:
                # A bug: the requests of this step are lost, the service is not.
                logger.exception("the engine failed")
                self._fail(Unavailable("the engine failed on this batch", reason="ENGINE_FAILED"))
            else:
                self._failed_attempts = 0
                self._count(sum(output.token_id is not None for output in outputs))
                if outputs:
                    self._deliver(list(outputs))

    def _take_in(self) -> bool:
        """Move new requests to the engine; waits while there is nothing to do. False: stop."""
        with self._wake:
            while not (self._inbox or self._stopping or self._engine.has_work()):
                self._wake.wait(_IDLE_S)
            arrived, self._inbox = self._inbox, []
        for sequence in arrived:
            self._engine.add(sequence)
        return not self._stopping

    def _mend(self, error: Step3Error) -> None:
        """Get a new backend. Requests wait for `grace_s`, then fail."""
        deadline = time.monotonic() + self._grace_s
        self._engine.ffn.close()
        self._on_serving(False)
        while not self._stopping:
            try:
                self._engine.ffn = self._reconnect()
            except Step3Error as refusal:
                error = refusal
            else:
                logger.info("the FFN is back")
                self._on_serving(True)
                return
            if time.monotonic() > deadline:
                with self._wake:
                    arrived, self._inbox = self._inbox, []
                for sequence in arrived:
                    self._engine.add(sequence)
                self._fail(error)
            with self._wake:
                self._wake.wait(_RETRY_S)

    def _fail(self, error: Step3Error) -> None:
        failures: list[Output | Failure] = [
            Failure(sequence, error) for sequence in self._engine.fail_all()
        ]
        if failures:
            self._deliver(failures)

    def _count(self, tokens: int) -> None:
        self._tokens += tokens
        now = time.monotonic()
        if now - self._rate_since >= 1.0:
            self._rate = self._tokens / (now - self._rate_since)
            self._tokens, self._rate_since = 0, now
