from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from stable_async.jobs.report import write_report
from tests.browser import browsing
from tests.jobs.job_folder import JobFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from selenium.webdriver.chrome.webdriver import WebDriver

HOSTILE = "<img src=x onerror=document.title='hit'></script><script>document.title='hit'</script>"
SCREENS = pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
TILES_IN_SIGHT = 200


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    with JobFolder(tmp_path_factory.mktemp("browser") / "job") as job:
        for number in range(380):
            service = "sd3" if number % 10 == 9 else "core"
            job.add(f"a lighthouse, #{number}.", service=service, filtered=number % 50 == 3)
        job.add(HOSTILE, identity=HOSTILE, metadata={HOSTILE: HOSTILE})
        for number in range(19):
            job.fail(f"a canal, #{number}.", "403 content_moderation", f"403: {HOSTILE}")
    return write_report(job.folder).as_uri()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    with JobFolder(tmp_path_factory.mktemp("browser") / "job") as job:
        first = job.add("a lighthouse").file_name
        with job.at_once():
            for number in range(1, 50_000):
                job.add(f"a lighthouse, #{number}.", file_name=first)
    return write_report(job.folder).as_uri()


@pytest.fixture
def browser() -> Iterator[Callable[[int, int], WebDriver]]:
    """Give browsers by width and height; they must have logged no error in the end."""
    with ExitStack() as stack:
        opened: list[WebDriver] = []

        def open_browser(width: int, height: int) -> WebDriver:
            opened.append(stack.enter_context(browsing.browser(width, height)))
            return opened[-1]

        yield open_browser
        for one in opened:
            assert one.execute("getLog", {"type": "browser"})["value"] == []


def texts(page: WebDriver, selector: str) -> list[str]:
    return [element.text for element in page.find_elements(By.CSS_SELECTOR, selector)]


def found(page: WebDriver) -> str:
    return page.find_element(By.ID, "found").text


def focused(page: WebDriver) -> str | None:
    return page.switch_to.active_element.get_attribute("data-index")


@SCREENS
def test_a_report_fits_the_screen_and_shows_pictures(
    browser: Callable[[int, int], WebDriver], small: str, width: int, height: int
) -> None:
    page = browser(width, height)
    page.get(small)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    assert found(page) == "400"
    page.execute_script("document.getElementById('filter').scrollIntoView()")
    shown = "return [...document.querySelectorAll('.tile img')].filter(i => i.naturalWidth).length"
    WebDriverWait(page, 5).until(lambda _: page.execute_script(shown) >= 4)
    assert len(texts(page, "#figures dd")) == 8
    assert page.find_elements(By.CSS_SELECTOR, "#timeline .curve")
    assert texts(page, "#spending td:first-child")[0].startswith("core")


def test_hostile_prompts_are_shown_as_text(
    browser: Callable[[int, int], WebDriver], small: str
) -> None:
    page = browser(1200, 800)
    page.get(small)
    page.find_element(By.ID, "query").send_keys("onerror")
    assert found(page).startswith("20 of")
    assert texts(page, ".tile .text")[0].startswith("<img src=x")
    page.find_element(By.CSS_SELECTOR, ".tile").click()
    assert page.find_element(By.ID, "viewer-text").text == HOSTILE
    assert page.title == "job · stable-async"


def test_search_service_and_status_narrow_the_sheet(
    browser: Callable[[int, int], WebDriver], small: str
) -> None:
    page = browser(1200, 800)
    page.get(small)
    query = page.find_element(By.ID, "query")
    query.send_keys("LIGHTHOUSE #37")
    assert found(page) == "11 of 400"
    page.find_element(By.ID, "service").send_keys("sd3")
    assert found(page) == "1 of 400"
    query.clear()
    query.send_keys("canal")
    assert page.find_element(By.ID, "nothing").is_displayed()
    page.find_element(By.ID, "reset").click()
    assert found(page) == "400"
    for state in ("done", "filtered"):
        page.find_element(By.CSS_SELECTOR, f"input[value={state}]").click()
    assert found(page) == "19 of 400"


def test_the_keyboard_does_all(browser: Callable[[int, int], WebDriver], small: str) -> None:
    page = browser(1200, 800)
    page.get(small)
    page.switch_to.active_element.send_keys("/")
    assert page.switch_to.active_element.get_attribute("id") == "query"
    page.execute_script("document.querySelector('.tile').focus()")
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert focused(page) == "2"
    page.switch_to.active_element.send_keys(Keys.END)
    assert focused(page) == "399"
    page.switch_to.active_element.send_keys(Keys.HOME)
    assert focused(page) == "0"
    page.switch_to.active_element.send_keys(Keys.ENTER)
    assert page.find_element(By.ID, "place").text == "1 of 400"
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert page.find_element(By.ID, "place").text == "2 of 400"
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    WebDriverWait(page, 5).until(lambda _: focused(page) == "1")


@SCREENS
def test_fifty_thousand_pictures_stay_usable(
    browser: Callable[[int, int], WebDriver], large: str, width: int, height: int
) -> None:
    page = browser(width, height)
    page.get(large)
    assert found(page) == "50,000"
    page.execute_script("document.querySelector('.tile').focus()")
    page.switch_to.active_element.send_keys(Keys.END)
    assert focused(page) == "49999"
    assert "#49999." in texts(page, ".tile:focus .text")[0]
    assert len(page.find_elements(By.CSS_SELECTOR, ".tile")) < TILES_IN_SIGHT
    page.find_element(By.ID, "query").send_keys("#4999")
    assert found(page) == "11 of 50,000"
