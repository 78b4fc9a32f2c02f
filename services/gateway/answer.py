"""The outer half of a request: items of a generation to the messages that the caller gets."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from step3.v1 import chat_pb2, common_pb2

from services.gateway.generation import Accepted, Ended, Item, Tokens
from services.gateway.stream import AnswerStream
from services.gateway.validation import ChatRequest
from shared.text.tokenizer import Tokenizer


class Answer:
    """The answer to one request.

    Args:
      request: what is answered.
      tokenizer: of the model.
      model: its name.
      arrived: when the request came (`time.monotonic`).

    Attributes:
      finished: the last message has been made.
    """

    def __init__(
        self, request: ChatRequest, tokenizer: Tokenizer, model: str, arrived: float
    ) -> None:
        self.finished = False
        self._started = chat_pb2.Started(request_id=request.request_id, model=model)
        self._stream = AnswerStream(tokenizer, request.tools, request.stop)
        self._arrived = arrived
        self._accepted: Accepted | None = None
        # Arrival of the first and the last tokens, and how many came first.
        self._first_at = self._last_at = arrived
        self._first_tokens = 0
        self._cached_tokens = 0

    def take(self, items: Iterable[Item]) -> Iterator[chat_pb2.StreamGenerateResponse]:
        """The messages that `items`, which arrived together, make.

        Raises:
          Exception: the one among the items, after the messages of what came before it.
        """
        end: Ended | Exception | None = None
        for item in items:
            match item:
                case Accepted():
                    yield from self._start(item)
                case Tokens():
                    self._push(item)
                    if self._stream.stopped:
                        end = Ended(common_pb2.FINISH_REASON_STOP)
                case _:
                    end = item
            if end is not None:
                break
        if isinstance(end, Ended):
            # An aborted request may not have got so far.
            yield from self._start(Accepted(0, 0, time.monotonic()))
            self._stream.finish()
        for delta in self._stream.take():
            yield chat_pb2.StreamGenerateResponse(delta=delta)
        if isinstance(end, Exception):
            raise end
        if end is not None:
            self.finished = True
            yield chat_pb2.StreamGenerateResponse(finished=self._finish(end))

    @property
    def summary(self) -> str:
        """For the log."""
        prompt_tokens = self._started.prompt_tokens
        return f"{prompt_tokens} prompt tokens, {self._stream.completion_tokens} completion tokens"

    def _start(self, accepted: Accepted) -> Iterator[chat_pb2.StreamGenerateResponse]:
        """The Started message, once: a second instance may accept what a first one lost."""
        if self._accepted is not None:
            return
        self._accepted = accepted
        self._started.prompt_tokens = accepted.prompt_tokens
        self._started.image_tokens = accepted.image_tokens
        yield chat_pb2.StreamGenerateResponse(started=self._started)

    def _push(self, tokens: Tokens) -> None:
        first = not self._stream.completion_tokens
        self._stream.push(tokens.token_ids)
        self._last_at = tokens.at
        self._cached_tokens = tokens.cached_tokens
        if first:
            self._first_at, self._first_tokens = tokens.at, self._stream.completion_tokens

    def _finish(self, end: Ended) -> chat_pb2.Finished:
        assert self._accepted is not None
        stream, reason = self._stream, end.finish_reason
        if stream.stopped:
            reason = common_pb2.FINISH_REASON_STOP
        if stream.has_calls and reason == common_pb2.FINISH_REASON_STOP:
            reason = common_pb2.FINISH_REASON_TOOL_CALLS
        accepted_ms = (self._accepted.at - self._arrived) * 1000
        decode_s = self._last_at - self._first_at
        decoded = stream.completion_tokens - self._first_tokens
        return chat_pb2.Finished(
            finish_reason=reason,
            usage=common_pb2.Usage(
                prompt_tokens=self._accepted.prompt_tokens,
                image_tokens=self._accepted.image_tokens,
                # The engine's count includes an end of turn that it does not send.
                completion_tokens=end.completion_tokens or stream.completion_tokens,
                reasoning_tokens=stream.reasoning_tokens,
                # A stop text or an abort ends the answer without the engine's last word.
                cached_tokens=end.cached_tokens or self._cached_tokens,
            ),
            timings=common_pb2.Timings(
                queue_ms=accepted_ms if end.queue_ms is None else end.queue_ms,
                time_to_first_token_ms=(self._first_at - self._arrived) * 1000,
                total_ms=(time.monotonic() - self._arrived) * 1000,
                tokens_per_second=decoded / decode_s if decode_s > 0 else 0.0,
            ),
        )
