from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from stable_async.report import write_report
from tests.browser import browsing
from tests.job_folder import JobFolder
from tests.samples import wav

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from selenium.webdriver.chrome.webdriver import WebDriver

HOSTILE = "<img src=x onerror=document.title='hit'></script><script>document.title='hit'</script>"
HEBREW, ARABIC = "מגדלור על החוף", "منارة على الشاطئ"
REVERSED = "\u202elighthouse"
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
def mixed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A job whose second and fourth of five prompts have no image."""
    with JobFolder(tmp_path_factory.mktemp("browser") / "job") as job:
        job.add(HEBREW, metadata={"note": ARABIC})
        job.fail(ARABIC, "403 content_moderation", "403: flagged")
        job.add("a lighthouse", service=REVERSED, parameters={"model": "large"})
        job.fail("a canal", "timeout", "no answer")
        job.add("a bridge")
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
    """Return browsers by width and height; they must have logged no error in the end."""
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
def test_a_report_fits_the_screen_and_shows_images(
    browser: Callable[[int, int], WebDriver], small: str, width: int, height: int
) -> None:
    page = browser(width, height)
    page.get(small)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    assert found(page) == "400"
    page.execute_script("document.getElementById('filter').scrollIntoView()")
    shown = "return [...document.querySelectorAll('.tile img')].filter(i => i.naturalWidth).length"
    WebDriverWait(page, 5).until(lambda _: page.execute_script(shown) >= 4)
    assert len(texts(page, "#figures dd")) == 7
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


def test_arrows_turn_over_wherever_the_focus_was(
    browser: Callable[[int, int], WebDriver], mixed: str
) -> None:
    page = browser(1200, 800)
    page.get(mixed)

    def press(key: str, place: int) -> None:
        ActionChains(page).send_keys(key).perform()
        assert page.find_element(By.ID, "place").text == f"{place} of 5"
        # What has the focus loses it at the next frame, when it is hidden or disabled.
        page.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")
        assert page.execute_script("return document.activeElement.closest('dialog') !== null")

    for held in ("viewer-link", "next", "previous", "close"):
        page.execute_script("document.querySelector('.tile').focus()")
        ActionChains(page).send_keys(Keys.ENTER).perform()
        assert page.switch_to.active_element.get_attribute("id") == "viewer"
        page.execute_script("document.getElementById(arguments[0]).focus()", held)
        for place in (2, 3, 4, 5, 5):
            press(Keys.ARROW_RIGHT, place)
        page.execute_script("document.getElementById(arguments[0]).focus()", held)
        for place in (4, 3, 2, 1, 1, 1):
            press(Keys.ARROW_LEFT, place)
        page.execute_script("document.activeElement.blur()")
        ActionChains(page).send_keys(Keys.ARROW_RIGHT).perform()
        assert page.find_element(By.ID, "place").text == "2 of 5"
        page.find_element(By.CSS_SELECTOR, ".stage").click()
        press(Keys.ARROW_LEFT, 1)
        ActionChains(page).send_keys(Keys.ESCAPE).perform()
        WebDriverWait(page, 5).until(lambda _: focused(page) == "0")


@pytest.mark.parametrize("width", [360, 390, 1440])
def test_every_status_can_be_reached_by_a_finger(
    browser: Callable[[int, int], WebDriver], small: str, width: int
) -> None:
    page = browser(width, 844)
    page.get(small)
    page.execute_script("document.getElementById('filter').scrollIntoView()")
    for state, count in (("done", 373), ("filtered", 8), ("failed", 19)):
        chip = page.find_element(By.CSS_SELECTOR, f"input[value={state}]")
        touched = "const r = arguments[0].getBoundingClientRect(), x = (r.left + r.right) / 2;"
        touched += "return document.elementFromPoint(x, (r.top + r.bottom) / 2) === arguments[0]"
        assert page.execute_script(touched, chip), state
        chip.click()
        assert found(page) == f"{400 - count} of 400"
        chip.click()


def test_images_are_named_and_chosen_for_a_screen_reader(
    browser: Callable[[int, int], WebDriver], mixed: str
) -> None:
    page = browser(1200, 800)
    page.get(mixed)
    page.execute_script("document.querySelector('.tile').focus()")
    ActionChains(page).send_keys(Keys.ARROW_RIGHT).perform()
    nodes = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    [box] = [node["nodeId"] for node in nodes if node["role"]["value"] == "listbox"]
    options = [node for node in nodes if node.get("parentId") == box]
    assert {node["role"]["value"] for node in options} == {"option"}
    names = [node["name"]["value"] for node in options]
    for name, words in zip(names, (HEBREW, ARABIC, "lighthouse", "canal", "bridge"), strict=True):
        assert words in name
    assert "403: flagged" in names[1]
    states = [{said["name"]: said["value"] for said in node["properties"]} for node in options]
    assert [state["selected"]["value"] for state in states] == [False, True, False, False, False]


def test_one_image_can_be_reached_by_tab_wherever_the_sheet_is(
    browser: Callable[[int, int], WebDriver], small: str
) -> None:
    page = browser(1200, 800)
    page.get(small)
    reachable = "return [...document.querySelectorAll('.tile[tabindex=\"0\"]')].length"
    page.execute_script("document.querySelectorAll('.tile')[2].focus()")
    ActionChains(page).send_keys(Keys.ARROW_RIGHT).perform()
    assert focused(page) == "3"
    assert page.execute_script(reachable) == 1
    page.execute_script("document.activeElement.blur(); scrollTo(0, 1e6)")
    WebDriverWait(page, 5).until(
        lambda _: page.find_elements(By.CSS_SELECTOR, ".tile[data-index='399']")
    )
    assert page.execute_script(reachable) == 1
    page.find_element(By.ID, "query").send_keys("#")
    assert found(page) == "399 of 400"
    assert page.execute_script(reachable) == 1


def test_the_focus_stays_on_its_image_when_the_window_changes(
    browser: Callable[[int, int], WebDriver], small: str
) -> None:
    page = browser(1200, 800)
    page.get(small)
    page.execute_script("document.querySelectorAll('.tile')[2].focus()")
    column = "return document.querySelector('.tile').offsetWidth"
    before = page.execute_script(column)
    size = {"width": 800, "height": 600, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    WebDriverWait(page, 5).until(lambda _: page.execute_script(column) != before)
    assert focused(page) == "2"


def test_text_runs_the_way_of_its_letters_and_turns_nothing_around_it(
    browser: Callable[[int, int], WebDriver], mixed: str
) -> None:
    page = browser(1200, 800)
    page.get(mixed)

    def directions(selector: str) -> list[str]:
        return [
            element.value_of_css_property("direction")
            for element in page.find_elements(By.CSS_SELECTOR, selector)
        ]

    assert directions(".tile .text") == ["rtl", "rtl", "ltr", "ltr", "ltr"]
    page.find_element(By.CSS_SELECTOR, ".tile").click()
    assert directions("#viewer-text") == ["rtl"]
    notes = dict(zip(texts(page, "#viewer-facts dt"), directions("#viewer-facts dd"), strict=True))
    assert notes["note"] == "rtl"
    assert notes["seed"] == "ltr"
    [model] = page.find_elements(By.CSS_SELECTOR, "#spending small")
    service = model.find_element(By.XPATH, "preceding-sibling::*")
    assert model.rect["x"] > service.rect["x"]


def test_audio_stops_with_the_viewer(
    browser: Callable[[int, int], WebDriver], tmp_path: Path
) -> None:
    with JobFolder(tmp_path / "job") as job:
        job.add(service="text-to-audio", data=wav(60, 8_000), content_type="audio/wav")
    page = browser(1200, 800)
    page.get(write_report(job.folder).as_uri())
    page.find_element(By.CSS_SELECTOR, ".tile").click()
    page.execute_async_script(
        "const done = arguments[0], audio = document.getElementById('viewer-audio');"
        "audio.muted = true; audio.play().then(done)"
    )
    silent = "return document.getElementById('viewer-audio').paused"
    assert not page.execute_script(silent)
    page.find_element(By.ID, "close").click()
    WebDriverWait(page, 5).until(lambda _: page.execute_script(silent))


@SCREENS
def test_fifty_thousand_images_stay_usable(
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
