"""The page in a real browser: `make browser`. Not part of `make test`, which needs no browser.

With SCREENSHOTS=FOLDER it leaves a screenshot of every size and scheme there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from stable_async.sandbox import SandboxSettings
from stable_async.sandbox.process import start_sandbox
from tests.browser.browsing import browser
from tests.examples.running import example

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from selenium.webdriver.chrome.webdriver import WebDriver

SIZES = [(1200, 850, False), (390, 844, True)]


@pytest.fixture(scope="module", params=["fastapi", "aiohttp"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with (
        start_sandbox(SandboxSettings(latency=0.4)) as sandbox,
        example(cast("str", request.param), sandbox.url) as one,
    ):
        yield one


@pytest.fixture(params=SIZES, ids=["wide-light", "phone-dark"])
def page(url: str, request: pytest.FixtureRequest) -> Iterator[WebDriver]:
    width, height, dark = request.param
    with browser(width, height, dark=dark) as one:
        one.get(url)
        yield one
        if folder := os.environ.get("SCREENSHOTS"):
            one.save_screenshot(str(Path(folder) / f"{request.node.name}.png"))
        assert [
            entry
            for entry in one.execute("getLog", {"type": "browser"})["value"]
            if entry["level"] == "SEVERE"
        ] == []


def until(page: WebDriver, condition: Callable[[], object]) -> None:
    WebDriverWait(page, 15, poll_frequency=0.02).until(lambda _: condition())


def states(page: WebDriver) -> list[str | None]:
    """Return the states of the wall, newest first."""
    return [
        card.get_attribute("data-state") for card in page.find_elements(By.CSS_SELECTOR, "#wall li")
    ]


def ask(page: WebDriver, prompt: str) -> None:
    """Type a prompt and send it by keyboard alone."""
    box = page.find_element(By.ID, "prompt")
    box.clear()
    box.send_keys(prompt)
    box.send_keys(Keys.CONTROL, Keys.ENTER)


def test_an_image_comes_in_with_its_states(page: WebDriver) -> None:
    ask(page, "a lighthouse")
    until(page, lambda: states(page) == ["generating"])
    until(page, lambda: states(page) == ["done"])
    image = page.find_element(By.CSS_SELECTOR, "#wall img")
    assert int(str(image.get_property("naturalWidth"))) > 500
    assert image.get_attribute("alt") == "a lighthouse"


def test_what_is_filtered_or_refused_is_said_in_plain_words(page: WebDriver) -> None:
    ask(page, "a sandbox:filtered thing")
    ask(page, "a sandbox:moderated thing")
    until(page, lambda: states(page) == ["refused", "filtered"])
    wall = page.find_element(By.ID, "wall").text
    assert "refused by the content rules" in wall
    assert "blurred by the content filter" in wall


def test_prompts_are_shown_as_text(page: WebDriver) -> None:
    evil = "<img src=x onerror=\"document.title='gone'\"><b>bold</b>"
    ask(page, evil)
    until(page, lambda: states(page) == ["done"])
    assert page.find_element(By.CSS_SELECTOR, "#wall p").text == evil
    assert page.title == "Images"


def test_one_that_was_stopped_can_be_asked_for_again(page: WebDriver) -> None:
    ask(page, "a lighthouse")
    until(page, lambda: states(page) == ["generating"])
    page.find_element(By.CSS_SELECTOR, "#wall button").click()
    until(page, lambda: states(page) == ["stopped"])
    page.find_element(By.CSS_SELECTOR, "#wall button").click()
    until(page, lambda: states(page) == ["done"])


def test_an_image_opens_in_full_size_and_closes_again(page: WebDriver) -> None:
    ask(page, "a lighthouse")
    until(page, lambda: states(page) == ["done"])
    page.find_element(By.CSS_SELECTOR, "#wall .frame button").click()
    large = page.find_element(By.CSS_SELECTOR, "#large img")
    assert large.is_displayed()
    assert large.get_attribute("alt") == "a lighthouse"
    large.click()
    assert not large.is_displayed()


def test_the_price_of_all_that_is_asked_for_is_shown(page: WebDriver) -> None:
    assert page.find_element(By.ID, "price").text == "3 credits in all"
    count = page.find_element(By.ID, "count")
    count.clear()
    count.send_keys("4")
    assert page.find_element(By.ID, "price").text == "12 credits in all"


def test_all_that_wait_can_be_stopped_and_asked_for_again(page: WebDriver) -> None:
    count = page.find_element(By.ID, "count")
    count.clear()
    count.send_keys("8")  # more than a browser has connections: the last ones wait
    ask(page, "a lighthouse")
    until(page, lambda: len(states(page)) == 8)
    labels = page.execute_script(
        "const cards = [...document.querySelectorAll('#wall li')];"
        "const button = card => card.querySelector('.state button');"
        "for (const card of cards) if (button(card)?.textContent === 'Stop') button(card).click();"
        "return cards.filter(card => card.dataset.state === 'stopped')"
        ".map(card => button(card).textContent);"
    )
    assert len(labels) >= 3
    assert set(labels) == {"Again"}


def test_everything_is_reached_by_the_keyboard_and_has_a_name(page: WebDriver) -> None:
    reached = []
    for _ in range(10):
        active = page.switch_to.active_element
        reached.append(active.accessible_name)
        active.send_keys(Keys.TAB)
    assert reached[0] == "What should the image show?"
    for name in ("Service", "Shape", "Style", "How many", "Make"):
        assert name in reached, reached
    assert all(reached)


def test_nothing_is_wider_than_the_window(page: WebDriver) -> None:
    ask(page, "x" * 300)
    until(page, lambda: states(page) == ["done"])
    width = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.execute_script(width) == 0


def test_the_gauge_shows_the_quota(page: WebDriver) -> None:
    def shown() -> int:
        words = page.find_element(By.ID, "quota-text").text.split()
        return int(words[0]) if words[1:3] == ["of", "150"] else -1

    until(page, lambda: shown() >= 0)
    ask(page, "a lighthouse")
    until(page, lambda: shown() >= 1)


def test_more_images_than_a_browser_has_connections_come_in_all_the_same(
    page: WebDriver,
) -> None:
    page.execute_script("document.getElementById('count').value = 9")
    ask(page, "a lighthouse")
    until(page, lambda: states(page).count("waiting") >= 4 and "generating" in states(page))
    until(page, lambda: states(page) == ["done"] * 9)
