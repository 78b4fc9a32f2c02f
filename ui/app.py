"""The console's web application: header, chat page, style and script on one FastAPI app."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import gradio as gr
from fastapi import FastAPI

from shared.settings import Settings
from ui.chat_page import MAX_ANSWERS, ChatPage
from ui.client import GatewayClient, GatewayState
from ui.examples import make_examples
from ui.rendering import header
from ui.same_origin import SameOrigin
from ui.theme import theme

HERE = Path(__file__).parent
HEALTH_S = 5.0
# Uploads are deleted a day after their last use.
CACHE_SWEEP_S, CACHE_AGE_S = 3600, 24 * 3600


def build(settings: Settings) -> FastAPI:
    """The application, ready for an ASGI server. Writes under `settings.home`/ui only."""
    folder = settings.home / "ui"
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    client = GatewayClient(
        settings.address("gateway"), deadline_s=settings.gateway.default_deadline_s
    )

    async def health() -> str:
        return header(await client.state())

    with gr.Blocks(
        title="Step3",
        fill_height=True,
        fill_width=True,
        delete_cache=(CACHE_SWEEP_S, CACHE_AGE_S),
    ) as page:
        with gr.Row(elem_id="header"):
            status = gr.HTML(header(GatewayState("starting")), elem_id="status")
            new_chat = gr.Button("New chat", size="sm", elem_id="new-chat")
            gr.HTML((HERE / "buttons.html").read_text(encoding="utf-8"), elem_id="tools")
        chat = ChatPage(client, settings.sampling, make_examples(folder / "examples"))
        new_chat.click(chat.clear, chat.session, chat.chatbot, queue=False)
        page.load(health, None, status, show_progress="hidden")
        gr.Timer(HEALTH_S).tick(
            health, None, status, show_progress="hidden", concurrency_limit=None
        )
    page.queue(api_open=False, default_concurrency_limit=MAX_ANSWERS, max_size=4 * MAX_ANSWERS)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await client.close()

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    app.add_middleware(SameOrigin)
    mounted: FastAPI = gr.mount_gradio_app(
        app,
        page,
        path="/",
        server_name=settings.host,
        server_port=settings.port("ui"),
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=settings.gateway.max_image_bytes,
        ssr_mode=False,
        favicon_path=str(HERE / "favicon.svg"),
        theme=theme(),
        css_paths=HERE / "style.css",
        head=f"<script>{(HERE / 'page.js').read_text(encoding='utf-8')}</script>",
    )
    return mounted
