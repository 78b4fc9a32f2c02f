"""A conversation as the messages of a gr.Chatbot: thinking folded, the usage under each answer."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from ui.client import GatewayState
from ui.conversation import Answer, Exchange, State

Message = dict[str, Any]

_RUNNING = {State.WAITING, State.THINKING, State.ANSWERING}


def render(exchanges: Sequence[Exchange], now: float) -> list[Message]:
    """All messages, oldest first."""
    return [message for exchange in exchanges for message in render_exchange(exchange, now)]


def exchange_at(exchanges: Sequence[Exchange], message_index: int, now: float) -> int:
    """Which exchange the `message_index`-th rendered message belongs to."""
    for index, exchange in enumerate(exchanges):
        message_index -= len(render_exchange(exchange, now))
        if message_index < 0:
            return index
    raise ValueError("the conversation has no such message; reload the page")


def render_exchange(exchange: Exchange, now: float) -> list[Message]:
    messages: list[Message] = [
        {"role": "user", "content": {"path": str(image), "alt_text": f"image {number}"}}
        for number, image in enumerate(exchange.images, start=1)
    ]
    if exchange.text:
        messages.append({"role": "user", "content": _text(exchange.text)})
    return messages + _render_answer(exchange.answer, now)


def _render_answer(answer: Answer, now: float) -> list[Message]:
    messages: list[Message] = []
    thinking = answer.state in {State.WAITING, State.THINKING}
    if answer.reasoning or thinking:
        title = "Thinking..." if thinking else f"Thought for {answer.thinking_s(now):.1f} s"
        metadata = {"title": title, "status": "pending" if thinking else "done"}
        messages.append(
            {"role": "assistant", "content": _text(answer.reasoning), "metadata": metadata}
        )
    if answer.content:
        messages.append({"role": "assistant", "content": _text(answer.content)})
    if answer.problem is not None:
        problem = answer.problem
        card = (
            f'<div class="problem"><strong>{escape(problem.title)}</strong>'
            f"<span>{escape(problem.detail)}</span><em>{escape(problem.advice)}</em></div>"
        )
        messages.append({"role": "assistant", "content": _text(card)})
    if answer.state not in _RUNNING and (usage := usage_line(answer)):
        messages.append({"role": "assistant", "content": _text(usage)})
    return messages


def usage_line(answer: Answer) -> str:
    """Tokens and speed of an ended answer as HTML; empty for one that never reached the model."""
    items = []
    if answer.state is State.STOPPED:
        items.append("<b>stopped</b>")
    elif answer.finish_reason == "length":
        items.append("<b>cut off at the token limit</b>")
    elif answer.finish_reason not in {"", "stop"}:
        items.append(f"<b>{escape(answer.finish_reason.replace('_', ' '))}</b>")
    if answer.prompt_tokens:
        images = f" ({answer.image_tokens:,} image)" if answer.image_tokens else ""
        items.append(f"{answer.prompt_tokens:,}{images} tokens in")
        items.append(f"{answer.completion_tokens:,} out")
    if answer.time_to_first_token_s is not None:
        items.append(f"first token {answer.time_to_first_token_s:.2f} s")
    if answer.tokens_per_second:
        items.append(f"{answer.tokens_per_second:.0f} tokens/s")
    spans = "".join(f"<span>{item}</span>" for item in items)
    return f'<div class="usage">{spans}</div>' if items else ""


def header(state: GatewayState) -> str:
    """The line at the top of the page: name, model, context and the gateway's health."""
    if state.ready:
        facts = (
            f"{escape(state.model)} &middot; {state.context_tokens:,} tokens<em> of context</em>"
        )
        title = "The gateway is ready"
    elif state.status == "starting":
        facts = title = "The gateway is starting"
    else:
        facts = title = "The gateway cannot be reached"
    return (
        f'<div class="brand"><h1>Step3</h1><p class="gateway" role="status" title="{title}">'
        f'<i class="dot {escape(state.status)}"></i><span>{facts}</span></p></div>'
    )


def _text(text: str) -> list[dict[str, str]]:
    # As a part, because Gradio strips the indentation of plain strings.
    return [{"type": "text", "text": text}]
