import pytest

from shared.text.tokenizer import Tokenizer
from shared.text.train_tokenizer import train_tokenizer

CORPUS = [
    "What is 47 + 38? Seven plus eight is 15, carry 1; 4 + 3 + 1 = 8. The answer is 85.",
    "The weather in Zürich is fine – 21 °C. 東京は晴れです。 🙂🙂",
    "function <steptml:invoke name=\"get_weather\"><steptml:parameter name=\"city\">Oslo",
    "user\nassistant\nsystem\ntool\n\n\n  indented",
] * 3  # fmt: skip


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_tokenizer(CORPUS, 600))
