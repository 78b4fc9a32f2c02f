"""The chat page in headless Chromium, served by `python -m ui`, against a scripted gateway."""

import base64
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.ui.scripted_gateway import ScriptedChat, serving_in_thread

# A path that was named must work; only a machine without any Chromium is let off.
CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)
ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
START_S = 60
# Two cores may be shared with other work.
expect.set_options(timeout=15_000)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


@dataclass
class Console:
    url: str
    chat: ScriptedChat


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    # A name with a dot, as the default has: Gradio is careful with hidden folders.
    home = tmp_path_factory.mktemp("console") / ".step3"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    chat = ScriptedChat(word_s=0.01)
    with serving_in_thread(chat) as address:
        process = subprocess.Popen(
            [sys.executable, "-m", "ui"],
            env=os.environ
            | {
                "STEP3_HOME": str(home),
                "STEP3_PORT_BASE": str(port - 4),
                "STEP3_ADDRESS_GATEWAY": address,
            },
        )
        try:
            deadline = time.monotonic() + START_S
            while not answers(port):
                assert process.poll() is None, "the console ended"
                assert time.monotonic() < deadline, "the console did not start in time"
                time.sleep(0.1)
            yield Console(f"http://127.0.0.1:{port}/", chat)
        finally:
            process.terminate()
            assert process.wait(15) == 0


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, console: Console) -> Iterator[Page]:
    """The page in a fresh profile; at the end, no request may have been meant for elsewhere."""
    yield from opened(browser, console)


def opened(browser: Browser, console: Console, **context_options: object) -> Iterator[Page]:
    context = browser.new_context(**context_options)
    page = context.new_page()
    page.set_default_timeout(15_000)
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(console.url)
    expect(box(page)).to_be_focused(timeout=30_000)
    yield page
    context.close()
    outside = [
        url
        for url in requested
        if urlsplit(url).scheme not in {"data", "blob"} and urlsplit(url).hostname != "127.0.0.1"
    ]
    assert requested
    assert outside == []


def box(page: Page) -> Locator:
    return page.locator("#composer textarea")


def send(page: Page, text: str) -> None:
    answers_before = page.locator(".bot-row").count()
    box(page).fill(text)
    box(page).press("Enter")
    expect(page.locator(".bot-row")).to_have_count(answers_before + 1)


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def answer(page: Page) -> Locator:
    return page.locator(".bot-row").last


def wait_until_done(page: Page, usage: str = "tokens in") -> None:
    expect(answer(page).locator(".usage")).to_contain_text(usage)
    expect(button(page, "Submit")).to_be_visible()


def picture(path: Path, colour: str) -> Path:
    Image.new("RGB", (48, 32), colour).save(path)
    return path


def test_an_answer_streams_with_its_thinking_and_ends_with_its_usage(page: Page):
    expect(page.locator(".gateway")).to_contain_text("step3-nano")
    expect(page.locator(".dot.ready")).to_be_visible()
    send(page, "hello 你好 🙂")
    expect(answer(page)).to_contain_text("Thinking...")
    expect(answer(page)).to_contain_text("Add the ones")
    expect(button(page, "Stop")).to_be_visible()
    wait_until_done(page)
    expect(answer(page)).to_contain_text("asked: hello 你好 🙂")
    expect(answer(page).locator(".usage")).to_contain_text("first token 0.08 s")
    # Folded, and opened again by a click.
    expect(answer(page)).to_contain_text(re.compile(r"Thought for \d+\.\d s"))
    expect(answer(page)).not_to_contain_text("Add the ones")
    answer(page).locator(".thought-group .title").click()
    expect(answer(page)).to_contain_text("Add the ones")
    expect(box(page)).to_have_value("")


def test_several_images_go_in_order_and_one_can_be_removed(
    page: Page, console: Console, tmp_path: Path
):
    red, green, blue = (picture(tmp_path / f"{c}.png", c) for c in ("red", "green", "blue"))
    page.locator("#composer input[type=file]").set_input_files([red, green])
    expect(page.locator("#composer .thumbnail-image")).to_have_count(2)
    page.get_by_label("Remove file").first.click()
    expect(page.locator("#composer .thumbnail-image")).to_have_count(1)
    give(page, "paste", "#composer textarea", blue)
    expect(page.locator("#composer .thumbnail-image")).to_have_count(2)
    give(page, "drop", "#conversation", red)
    expect(page.locator("#composer .thumbnail-image")).to_have_count(3)
    send(page, "Which colours?")
    wait_until_done(page, "(108 image) tokens in")
    expect(page.locator(".user-row img")).to_have_count(3)
    *images, text = console.chat.requests[-1].messages[-1].parts
    assert [part.image.data for part in images] == [p.read_bytes() for p in (green, blue, red)]
    assert text.text == "Which colours?"


def give(page: Page, way: str, where: str, file: Path) -> None:
    """Paste or drop `file` there, as the browser tells the page of it."""
    page.locator(where).evaluate(
        """(target, [way, data]) => {
          const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
          const files = new DataTransfer();
          files.items.add(new File([bytes], `${way}.png`, { type: "image/png" }));
          const how = { bubbles: true, cancelable: true };
          target.dispatchEvent(
            way === "paste"
              ? new ClipboardEvent("paste", { ...how, clipboardData: files })
              : new DragEvent("drop", { ...how, dataTransfer: files }),
          );
        }""",
        [way, base64.b64encode(file.read_bytes()).decode()],
    )


def test_an_example_with_a_picture_is_one_click(page: Page, console: Console):
    page.get_by_text("What number is this?").click()
    wait_until_done(page, "(36 image)")
    image, text = console.chat.requests[-1].messages[-1].parts
    assert image.image.data.startswith(b"\x89PNG")
    assert text.text == "What number is this?"


@pytest.mark.parametrize("way", ["button", "escape"])
def test_stopping_keeps_the_partial_answer(page: Page, console: Console, way: str):
    cancelled = console.chat.cancelled
    send(page, "a long answer")
    expect(answer(page)).to_contain_text("word5")
    if way == "button":
        button(page, "Stop").click()
    else:
        page.keyboard.press("Escape")
    wait_until_done(page, "stopped")
    expect(answer(page)).to_contain_text("word5")
    expect(answer(page)).not_to_contain_text("word600")
    # The page says so at once; the cancel is still on its way to the gateway.
    deadline = time.monotonic() + 10
    while console.chat.cancelled == cancelled and time.monotonic() < deadline:
        time.sleep(0.02)
    assert console.chat.cancelled == cancelled + 1
    # What was kept is the model's answer from now on.
    send(page, "next")
    wait_until_done(page)
    partial = console.chat.requests[-1].messages[1].parts[0].text
    assert partial.startswith("word1 word2")


def test_closing_the_tab_cancels_the_call(browser: Browser, console: Console):
    cancelled = console.chat.cancelled
    for page in opened(browser, console):
        send(page, "a long answer")
        expect(answer(page)).to_contain_text("word3")
    deadline = time.monotonic() + 10
    while console.chat.cancelled == cancelled:
        assert time.monotonic() < deadline, "the gateway still answers a tab that is closed"
        time.sleep(0.05)


def test_retry_edit_and_undo(page: Page, console: Console):
    send(page, "first")
    wait_until_done(page)
    before = len(console.chat.requests)
    button(page, "Retry").click()
    expect(button(page, "Stop")).to_be_visible()
    wait_until_done(page)
    assert len(console.chat.requests) == before + 1
    assert console.chat.requests[-1].messages == console.chat.requests[-2].messages

    page.locator(".user-row").hover()
    page.get_by_label("Edit").click()
    page.locator(".edit-textarea").fill("second")
    page.locator(".message-buttons-right").get_by_label("Submit").click()
    expect(answer(page)).to_contain_text("asked: second")
    wait_until_done(page)
    (message,) = console.chat.requests[-1].messages
    assert message.parts[0].text == "second"

    button(page, "Undo").click()
    expect(box(page)).to_have_value("second")
    expect(page.locator(".bot-row")).to_have_count(0)


def test_copy_takes_the_answer_alone(page: Page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    send(page, "copy me")
    wait_until_done(page)
    page.locator(".message-buttons-left").get_by_label("Copy message").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.strip() == "You sent 0 images and asked: copy me"


def test_each_error_is_said_in_the_page_with_what_to_do(page: Page):
    for code, title, advice in (
        ("UNAVAILABLE", "The model is not ready", "Try again in 3 s."),
        ("RESOURCE_EXHAUSTED", "Too many requests at once", "Try again in 5 s."),
        ("INVALID_ARGUMENT", "An image cannot be used", "PNG, JPEG, WebP, GIF or BMP"),
        ("INTERNAL", "The gateway failed", "./step3 logs gateway"),
    ):
        send(page, f"error: {code}")
        problem = answer(page).locator(".problem")
        expect(problem).to_contain_text(title)
        expect(problem).to_contain_text(advice)
        expect(button(page, "Retry")).to_be_enabled()
    expect(page.locator("body")).not_to_contain_text("Traceback")
    # What failed does not stand in the way of the next question.
    send(page, "hello")
    wait_until_done(page)


def test_the_settings_reach_the_request_and_a_bad_one_is_said(page: Page, console: Console):
    button(page, "Settings").click()
    page.get_by_label("System prompt").fill("Be brief.")
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Max tokens").fill("1")
    send(page, "hello")
    wait_until_done(page, "cut off at the token limit")
    request = console.chat.requests[-1]
    assert request.messages[0].parts[0].text == "Be brief."
    assert (request.sampling.seed, request.sampling.max_tokens) == (7, 1)
    page.get_by_label("Seed").fill("lucky")
    send(page, "again")
    expect(page.locator(".problem")).to_contain_text("'lucky' is not a whole number")


def test_enter_in_a_composition_and_shift_enter_do_not_send(page: Page, console: Console):
    before = len(console.chat.requests)
    box(page).fill("ni hao")
    box(page).evaluate(
        """(box) => box.dispatchEvent(new KeyboardEvent("keydown",
             { key: "Enter", isComposing: true, bubbles: true, cancelable: true }))"""
    )
    box(page).press("Shift+Enter")
    expect(box(page)).to_have_value("ni hao\n")
    assert len(console.chat.requests) == before


def test_two_tabs_have_two_conversations_and_new_chat_clears_one(
    page: Page, browser: Browser, console: Console
):
    send(page, "mine")
    wait_until_done(page)
    for other in opened(browser, console):
        expect(other.locator(".welcome")).to_be_visible()
        send(other, "yours")
        wait_until_done(other)
        assert len(console.chat.requests[-1].messages) == 1
    button(page, "New chat").click()
    expect(page.locator(".welcome")).to_be_visible()
    expect(page.locator(".bot-row")).to_have_count(0)


def test_a_remote_picture_in_an_answer_is_not_fetched(page: Page):
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0.5)
        # The scripted answer repeats the question.
        send(page, f"![x](http://127.0.0.1:{elsewhere.getsockname()[1]}/x.png)")
        wait_until_done(page)
        expect(answer(page).locator("img")).to_have_count(1)
        with pytest.raises(TimeoutError):
            elsewhere.accept()


def test_it_fits_a_phone(browser: Browser, console: Console, tmp_path: Path):
    phone = {
        "viewport": {"width": 390, "height": 844},
        "is_mobile": True,
        "has_touch": True,
        "device_scale_factor": 2,
    }
    images = [picture(tmp_path / f"{number}.png", "red") for number in range(5)]
    for page in opened(browser, console, **phone):
        assert overflow(page) == 0
        expect(page.get_by_label("System prompt")).not_to_be_in_viewport()
        page.locator("#composer input[type=file]").set_input_files(images)
        expect(page.locator("#composer .thumbnail-image")).to_have_count(5)
        send(page, "a markdown answer with " + "averywideword" * 15)
        wait_until_done(page)
        assert overflow(page) == 0
        # No thumbnail is wider than its place, which would cut off its right edge.
        thumbnails = page.locator(".user-row .component")
        expect(thumbnails).to_have_count(5)
        assert thumbnails.evaluate_all(
            "all => all.every((e) => e.scrollWidth <= e.clientWidth + 1)"
        )
        expect(button(page, "Submit")).to_be_in_viewport(ratio=1)
        button(page, "Settings").click()
        expect(page.get_by_label("System prompt")).to_be_in_viewport(ratio=1)
        page.get_by_label("Toggle Sidebar").click()
        expect(page.get_by_label("System prompt")).not_to_be_in_viewport()


def overflow(page: Page) -> int:
    width = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    return int(page.evaluate(width))


def test_both_themes_follow_the_system_and_the_button(browser: Browser, console: Console):
    for page in opened(browser, console, color_scheme="dark"):
        assert brightness(page) < 60
        page.get_by_label("Light or dark theme").click()
        assert brightness(page) > 200
        page.reload()
        expect(box(page)).to_be_focused()
        page.wait_for_function("!document.body.classList.contains('dark')")
        assert brightness(page) > 200


def brightness(page: Page) -> float:
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red, green, blue = (int(value) for value in re.findall(r"\d+", colour)[:3])
    return (red + green + blue) / 3
