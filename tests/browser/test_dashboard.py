"""The sandbox's own page in a real browser: `make browser`."""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from stable_async.sandbox import SandboxProcess, SandboxSettings, start_sandbox
from tests.browser.browsing import browser

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from selenium.webdriver.chrome.webdriver import WebDriver

SIZES = [(1280, 900, False), (390, 844, True)]
TOKEN = "token-of-the-test"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with start_sandbox(SandboxSettings(counting="off", token=TOKEN)) as process:
        yield process


@pytest.fixture(params=SIZES, ids=["wide-light", "phone-dark"])
def page(sandbox: SandboxProcess, request: pytest.FixtureRequest) -> Iterator[WebDriver]:
    sandbox.reset()
    width, height, dark = request.param
    with browser(width, height, dark=dark) as one:
        one.get(f"{sandbox.url}/#token={TOKEN}")
        yield one


def ask(url: str, prompt: str) -> None:
    body = (
        f'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n{prompt}\r\n--b--\r\n'
    ).encode()
    headers = {
        "authorization": "sk-x",
        "accept": "image/*",
        "content-type": "multipart/form-data; boundary=b",
    }
    request = urllib.request.Request(url + "/v2beta/stable-image/generate/core", body, headers)
    with suppress(OSError):
        urllib.request.urlopen(request, timeout=20).read()


def until(page: WebDriver, condition: Callable[[], object]) -> None:
    WebDriverWait(page, 15, poll_frequency=0.05).until(lambda _: condition())


def prompts(page: WebDriver) -> list[str]:
    found = page.find_elements(By.CSS_SELECTOR, "#requests .prompt")
    return [element.text for element in found]


def test_finished_images_stay_in_sight_while_others_run(
    page: WebDriver, sandbox: SandboxProcess
) -> None:
    ask(sandbox.url, "a lighthouse")
    sandbox.set_faults(delay={"seconds": 3600})
    with ThreadPoolExecutor(20) as pool:
        for number in range(20):
            pool.submit(ask, sandbox.url, f"running {number}")
        until(page, lambda: page.find_element(By.ID, "running-count").text == "20")
        assert prompts(page) == ["a lighthouse"]
        image = page.find_element(By.CSS_SELECTOR, "#requests img")
        until(page, lambda: int(str(image.get_property("naturalWidth"))) > 100)
        assert "and 12 more" in page.find_element(By.ID, "running-list").text
        sandbox.advance(3600)
    until(page, lambda: not page.find_element(By.ID, "running").is_displayed())
    until(page, lambda: len(prompts(page)) == 21)


def test_filters_and_search_show_what_they_say(page: WebDriver, sandbox: SandboxProcess) -> None:
    sandbox.set_faults(edge={"kind": "firewall", "times": 1})
    for prompt in ("at the edge", "a fox", "sandbox:moderated", "sandbox:drop"):
        ask(sandbox.url, prompt)
    until(page, lambda: len(prompts(page)) == 4)
    buttons = {b.text: b for b in page.find_elements(By.CSS_SELECTOR, "#filters button")}
    shown = {}
    for name, button in buttons.items():
        button.click()
        shown[name] = set(prompts(page))
        assert button.get_attribute("aria-pressed") == "true"
    assert shown["Images"] == {"a fox", "sandbox:drop"}
    assert shown["Refused"] == {"at the edge", "sandbox:moderated"}
    assert shown["Cut off"] == {"sandbox:drop"}
    buttons["All"].click()
    page.find_element(By.ID, "search").send_keys("FOX")
    assert prompts(page) == ["a fox"]


def test_details_open_and_close_by_the_keyboard_and_fill_a_phone(
    page: WebDriver, sandbox: SandboxProcess
) -> None:
    ask(sandbox.url, "a fox " * 200)
    until(page, lambda: prompts(page))
    page.find_element(By.CSS_SELECTOR, "#requests button").send_keys(Keys.ENTER)
    dialog = page.find_element(By.ID, "details")
    assert dialog.is_displayed()
    width = page.execute_script("return window.innerWidth")
    if width < 500:
        assert dialog.rect["width"] == width
    page.execute_script("arguments[0].scrollTop = 10000", dialog)
    close = page.find_element(By.ID, "close")
    assert 0 <= close.rect["y"] - page.execute_script("return window.scrollY") < 100
    close.send_keys(Keys.ENTER)
    assert not dialog.is_displayed()


def test_nothing_is_wider_than_the_window(page: WebDriver, sandbox: SandboxProcess) -> None:
    ask(sandbox.url, "x" * 300)
    until(page, lambda: prompts(page))
    width = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.execute_script(width) == 0


def test_without_the_token_the_page_says_what_it_needs(
    page: WebDriver, sandbox: SandboxProcess
) -> None:
    page.get("about:blank")
    page.get(sandbox.url)
    until(page, lambda: "#token=" in page.find_element(By.ID, "alarm").text)


def test_another_sites_page_reaches_nothing(page: WebDriver, sandbox: SandboxProcess) -> None:
    faults = json.dumps({"exhaust_credits": None})
    script = f"""
        const done = arguments[0], url = {sandbox.url!r};
        const sent = fetch(url + "/_sandbox/faults", {{
            method: "POST", mode: "no-cors", body: {faults!r},
            headers: {{"content-type": "text/plain"}}
        }});
        Promise.allSettled([sent, fetch(url + "/v1/user/balance")])
            .then((found) => done(found.map((one) => one.status)));
    """
    page.get("data:text/html,<title>another site</title>")
    page.execute_async_script(script)
    state = sandbox.state()["statistics"]
    assert state["credits_left"] > 0  # type: ignore[index]
    assert state["requests"] == 0  # type: ignore[index]
