"""A gateway over real gRPC: a real vision service, and attention services that play a script."""

from __future__ import annotations

import asyncio
import io
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image
from step3.v1 import (
    attention_pb2,
    attention_pb2_grpc,
    chat_pb2,
    chat_pb2_grpc,
    common_pb2,
    vision_pb2_grpc,
)
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models, pre_tokenizers

from services.gateway.backends import Backends
from services.gateway.service import ChatService
from services.vision.service import VisionService
from shared.rpc.client import Channels
from shared.rpc.server import RpcServer
from shared.settings import GatewaySettings, SamplingDefaults, Settings
from shared.text.tokenizer import Tokenizer

TINY = Path(__file__).parents[2] / "data" / "step3-tiny"

SPECIAL = {
    "<im_start>": 500,
    "<im_patch>": 501,
    "<im_end>": 502,
    "<patch_start>": 503,
    "<patch_end>": 504,
    "<|EOT|>": 505,
    "<patch_newline>": 506,
    "<think>": 507,
    "</think>": 508,
    "<|BOT|>": 509,
    "<｜begin▁of▁sentence｜>": 300,
    "<｜tool_calls_begin｜>": 301,
    "<｜tool_calls_end｜>": 302,
    "<｜tool_call_begin｜>": 303,
    "<｜tool_call_end｜>": 304,
    "<｜tool_sep｜>": 305,
}
END_THINK, EOT = SPECIAL["</think>"], SPECIAL["<|EOT|>"]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with a tokenizer whose tokens are the 256 bytes."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(TINY / name, folder / name)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: index for index, character in enumerate(alphabet)} | SPECIAL
    tokenizer = HfTokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def tokenizer(model: Path) -> Tokenizer:
    return Tokenizer.from_dir(model)


@pytest.fixture
def ids(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    return lambda text: tokenizer.encode(text, allow_special=True)


@dataclass
class Attention(attention_pb2_grpc.AttentionServiceServicer):
    """Plays `script`: token ids are a delta, a number is a pause, an exception is raised."""

    script: Sequence[list[int] | float | Exception] = ()
    finish_reason: int = common_pb2.FINISH_REASON_STOP
    accepts: bool = True
    requests: list[attention_pb2.GenerateTokensRequest] = field(default_factory=list)
    running: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def GenerateTokens(self, request, context):
        self.requests.append(request)
        response = attention_pb2.GenerateTokensResponse
        tokens = 0
        try:
            if self.accepts:
                yield response(
                    accepted=attention_pb2.PromptAccepted(prompt_tokens=len(request.token_ids))
                )
            for step in self.script:
                match step:
                    case list():
                        tokens += len(step)
                        yield response(
                            delta=attention_pb2.TokenDelta(token_ids=step, cached_tokens=3)
                        )
                    case float():
                        self.running.set()
                        await asyncio.sleep(step)
                    case _:
                        raise step
            yield response(
                finished=attention_pb2.TokensFinished(
                    finish_reason=self.finish_reason,
                    completion_tokens=tokens,
                    cached_tokens=3,
                    queue_ms=1.5,
                )
            )
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@asynccontextmanager
async def served(server: RpcServer) -> AsyncIterator[RpcServer]:
    """`server`, started and SERVING; ended at once on the way out."""
    await server.start()
    await server.set_serving(True)
    try:
        yield server
    finally:
        await halt(server)


async def halt(server: RpcServer) -> None:
    hurry = asyncio.Event()
    hurry.set()
    await server.drain(hurry)


class World:
    """All servers of a test."""

    def __init__(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = settings
        self.stack = AsyncExitStack()
        self._monkeypatch = monkeypatch
        self.attention_servers: list[RpcServer] = []

    async def start(self, *attentions: Attention) -> chat_pb2_grpc.ChatServiceStub:
        """A stub of a gateway over one vision instance and `attentions`."""
        vision = VisionService(self.settings)
        await vision.load()
        server = RpcServer("vision", self.settings, port=0)
        server.add(
            "step3.v1.VisionService", vision_pb2_grpc.add_VisionServiceServicer_to_server, vision
        )
        self.vision_server = await self.stack.enter_async_context(served(server))
        for attention in attentions:
            server = RpcServer("attention", self.settings, port=0)
            server.add(
                "step3.v1.AttentionService",
                attention_pb2_grpc.add_AttentionServiceServicer_to_server,
                attention,
            )
            self.attention_servers.append(await self.stack.enter_async_context(served(server)))
        self._monkeypatch.setenv("STEP3_ADDRESS_VISION", self.vision_server.address)
        addresses = ",".join(server.address for server in self.attention_servers)
        self._monkeypatch.setenv("STEP3_ADDRESS_ATTENTION", addresses)

        channels = await self.stack.enter_async_context(Channels())
        self.backends = Backends(self.settings, channels)
        self.service = ChatService(self.settings, self.backends)
        watching = asyncio.create_task(self.backends.watch())
        self.stack.callback(watching.cancel)
        await asyncio.wait_for(self.backends.wait_ready(), 5)
        gateway = RpcServer("gateway", self.settings, port=0)
        gateway.add(
            "step3.v1.ChatService",
            chat_pb2_grpc.add_ChatServiceServicer_to_server,
            self.service,
        )
        self.gateway = await self.stack.enter_async_context(served(gateway))
        return chat_pb2_grpc.ChatServiceStub(channels.get(self.gateway.address))


@pytest.fixture
def settings(tmp_path: Path, model: Path) -> Settings:
    return Settings(
        home=tmp_path,
        model=model,
        gateway=GatewaySettings(
            max_images=2,
            max_image_bytes=200_000,
            max_image_pixels=500_000,
            max_concurrent_requests=2,
        ),
        sampling=SamplingDefaults(temperature=0.5, max_tokens=64),
    )


@pytest.fixture
async def world(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    world = World(settings, monkeypatch)
    async with world.stack:
        yield world


@pytest.fixture
def png() -> Callable[[int, int], bytes]:
    def make(width: int, height: int) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (width, height), (200, 30, 60)).save(buffer, "PNG")
        return buffer.getvalue()

    return make


def user(*parts: str | bytes) -> chat_pb2.Message:
    return chat_pb2.Message(
        role=chat_pb2.ROLE_USER,
        parts=[
            chat_pb2.Part(text=part)
            if isinstance(part, str)
            else chat_pb2.Part(image=chat_pb2.Image(data=part))
            for part in parts
        ],
    )


@pytest.fixture
def ask() -> Callable[..., chat_pb2.StreamGenerateRequest]:
    """A request with one user turn of `parts`; keywords are fields of the request."""

    def make(*parts: str | bytes, **fields) -> chat_pb2.StreamGenerateRequest:
        request = chat_pb2.GenerateRequest(**{"messages": [user(*parts)], **fields})
        return chat_pb2.StreamGenerateRequest(request=request)

    return make


@pytest.fixture
def attention() -> type[Attention]:
    return Attention


@pytest.fixture
def end_server() -> Callable[[RpcServer], object]:
    return halt
