"""The ways in which people type the same question."""

from __future__ import annotations

import random

_OPENERS = (
    "Hi, ",
    "Hello, ",
    "Hey, ",
    "Hi! ",
    "Hello! ",
    "Please tell me: ",
    "Quick question: ",
    "Can you help me? ",
    "I have a question. ",
    "Ok, ",
    "Now, ",
    "And ",
)
_CLOSERS = (" Thanks!", " Thank you.", " please", " Please.", " Think carefully.", " Be brief.")
_SYSTEMS = (
    "You are a careful assistant.",
    "You are Step3 nano.",
    "You are a friendly assistant. Answer briefly.",
    "Answer the user's question.",
    "You are an assistant that thinks before it answers.",
    "You are a helpful AI model.",
)
DEFAULT_SYSTEM = "You are a helpful assistant."


def vary(rng: random.Random, text: str) -> str:
    """`text` with the case, punctuation and courtesies of a random typist; the meaning stays."""
    if rng.random() < 0.15:
        text = text.replace("What is", "What's", 1)
    elif rng.random() < 0.05:
        text = text.replace("What is", "whats", 1)
    if rng.random() < 0.2 and text[-1] in "?.":
        text = text[:-1]
    if rng.random() < 0.12:
        opener = rng.choice(_OPENERS)
        keeps_case = opener.rstrip()[-1] in "!?.:" or text.startswith("I ")
        text = opener + (text if keeps_case else text[0].lower() + text[1:])
    if rng.random() < 0.08:
        closer = rng.choice(_CLOSERS)
        text = text + ("" if text[-1] in "?.!" or closer == " please" else ".") + closer
    if rng.random() < 0.25:
        text = text.lower()
    elif rng.random() < 0.03:
        text = text.upper()
    if rng.random() < 0.03:
        text = rng.choice((" " + text, text + " ", text + "\n", text.replace(" ", "  ", 1)))
    return text


def system_prompt(rng: random.Random) -> str | None:
    """None, the usual sentence, or now and then another."""
    draw = rng.random()
    if draw < 0.45:
        return None
    return DEFAULT_SYSTEM if draw < 0.85 else rng.choice(_SYSTEMS)
