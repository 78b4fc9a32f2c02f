"""One answer from the gateway into a session, at the pace at which a page can be redrawn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from step3.v1 import common_pb2

from shared.rpc.client import RpcError
from ui.client import Event, GatewayClient
from ui.conversation import Exchange, Session, to_messages
from ui.problems import Problem, describe

# Twelve redraws a second look continuous and leave the browser and the event loop their time.
REDRAW_S = 1 / 12
# While nothing arrives the page is still redrawn this often, so that a closed tab is noticed.
HEARTBEAT_S = 0.5


async def fold_answer(
    client: GatewayClient, session: Session, exchange: Exchange, controls: Sequence[Any]
) -> AsyncGenerator[None, None]:
    """Fold the gateway's events into `exchange`; yields when there is something to draw.

    Every end is told in `exchange.answer`: done, stopped by `session.stop_requested`, or failed.
    Closing the generator cancels the call.

    Args:
      client: asks the gateway.
      session: the conversation, `exchange` its last.
      exchange: the question whose answer is awaited.
      controls: the system prompt and the arguments of `sampling_params`.
    """
    system_prompt, *values = controls
    answer = exchange.answer
    try:
        messages = to_messages(session.exchanges, system_prompt)
        events = client.stream(messages, sampling_params(*values))
        drawn_at = 0.0
        async with aclosing(batches(events, REDRAW_S)) as stream:
            async for batch in stream:
                now = time.monotonic()
                if session.stop_requested:
                    answer.stop(now)
                    break
                for event in batch:
                    answer.apply(event, now)
                if batch or now - drawn_at >= HEARTBEAT_S:
                    drawn_at = now
                    yield
    except RpcError as error:
        answer.fail(describe(error, client.address), time.monotonic())
    except ValueError as error:
        problem = Problem("A setting cannot be used", str(error), "Correct it and press Retry.")
        answer.fail(problem, time.monotonic())
    except OSError as error:
        problem = Problem(
            "An image is no longer there", error.strerror or "", "Attach it to a new message."
        )
        answer.fail(problem, time.monotonic())
    yield


async def batches(
    events: AsyncIterator[Event], period_s: float
) -> AsyncGenerator[list[Event], None]:
    """What arrived in each period, empty lists included; the events' error comes after the last."""
    arrived: list[Event] = []

    async def collect() -> None:
        async for event in events:
            arrived.append(event)

    task = asyncio.create_task(collect())
    try:
        ended = False
        while not ended:
            await asyncio.wait({task}, timeout=period_s)
            # Asked before the yield: more may arrive, and the end too, while the page is drawn.
            ended = task.done()
            batch, arrived[:] = arrived[:], []
            yield batch
        await task
    finally:
        task.cancel()


def sampling_params(
    temperature: float | None,
    top_p: float | None,
    top_k: float | None,
    min_p: float | None,
    max_tokens: float | None,
    seed: str,
) -> common_pb2.SamplingParams:
    """The panel's values; an emptied field is left to the server.

    Raises:
      ValueError: the seed is not a whole number of 64 bits.
    """
    seed = seed.strip()
    if seed and not (seed.removeprefix("-").isdecimal() and -(2**63) <= int(seed) < 2**63):
        raise ValueError(f"The seed {seed[:40]!r} is not a whole number of 64 bits.")
    return common_pb2.SamplingParams(
        temperature=temperature,
        top_p=top_p,
        top_k=None if top_k is None else int(top_k),
        min_p=min_p,
        max_tokens=None if max_tokens is None else int(max_tokens),
        seed=int(seed) if seed else None,
    )
