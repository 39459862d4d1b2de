"""The page in a browser: Debian's chromium, driven by selenium; no network is needed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sample_report import sample_report

from reports.page.page import write_page

pytestmark = pytest.mark.browser

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def lacking() -> str:
    """What is needed and not there."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium"
    return "" if CHROMIUM and DRIVER else "chromium and chromedriver"


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    if missing := lacking():
        give_up = pytest.fail if os.environ.get("MASKBENCH_NEED_BROWSER") == "1" else pytest.skip
        give_up(f"{missing} not installed: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield started
    started.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    return write_page(sample_report(folder), folder / "report.html").as_uri()


@pytest.fixture
def browser(driver: Any, address: str) -> Iterator[Any]:
    """The page, freshly opened in a wide and light window; it must not complain."""
    resize(driver, 1280, 900)
    prefer(driver, "light")
    driver.get_log("performance")
    driver.get("about:blank")  # an address that differs in its fragment alone loads nothing
    driver.get(address)
    yield driver
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def resize(driver: Any, width: int, height: int) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def prefer(driver: Any, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def one(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def texts(browser: Any, selector: str) -> list[str]:
    """What is shown of each; hidden elements have no text."""
    found = browser.find_elements("css selector", selector)
    return [element.text for element in found if element.is_displayed()]


def labels(browser: Any) -> list[str]:
    return [text.split("\n")[0].removesuffix(" control") for text in texts(browser, "tbody th")[:4]]


def wait(found: Callable[[], bool], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end
        time.sleep(0.02)


def press(browser: Any, key: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    ActionChains(browser).send_keys(getattr(Keys, key)).perform()


ORIGINAL = ["SimCLR", "+ ADIOS", "+ Sequential", "Untrained"]


def test_sort__by_click_as_numbers_and_back(browser: Any) -> None:
    head = one(browser, '[data-column="1"]')
    orders = []
    for _ in range(3):
        one(browser, '[data-column="1"] button').click()
        orders.append((head.get_attribute("aria-sort"), labels(browser)))
    assert orders == [
        ("ascending", ["SimCLR", "+ Sequential", "+ ADIOS", "Untrained"]),
        ("descending", ["+ ADIOS", "+ Sequential", "SimCLR", "Untrained"]),
        ("none", ORIGINAL),
    ]


@pytest.mark.parametrize("key", ["ENTER", "SPACE"])
def test_sort__by_keyboard_with_what_is_empty_last(browser: Any, key: str) -> None:
    browser.execute_script("document.querySelector('[data-column=\"2\"] button').focus()")
    press(browser, key)
    assert labels(browser) == ["+ ADIOS", "+ Sequential", "SimCLR", "Untrained"]
    press(browser, key)
    assert labels(browser) == ["+ Sequential", "+ ADIOS", "SimCLR", "Untrained"]
    assert one(browser, ".table output").text == "4 of 4 rows, descending by kNN"


def test_sort__by_words_one_column_at_a_time(browser: Any) -> None:
    one(browser, '[data-column="1"] button').click()
    one(browser, '[data-column="0"] button').click()
    assert len(browser.find_elements("css selector", '[aria-sort="ascending"]')) == 1
    assert labels(browser) == ["+ ADIOS", "+ Sequential", "SimCLR", "Untrained"]


def test_filter__shows_rows_with_all_words(browser: Any) -> None:
    field = one(browser, ".table input")
    field.send_keys("AdIoS 100")
    assert labels(browser)[:1] == ["+ ADIOS"]
    assert one(browser, ".table output").text == "1 of 4 rows"
    field.clear()
    field.send_keys("adios 9.50")
    assert one(browser, ".table output").text == "0 of 4 rows"


def test_cell__leads_to_its_runs_and_their_configuration(browser: Any) -> None:
    browser.find_elements("css selector", ".data td a")[1].click()
    wait(lambda: one(browser, "#runs-text").text == "2 of 7 runs")
    shown = [text.split("\n")[0] for text in texts(browser, "details.run > summary")]
    assert shown == ["+ ADIOS, seed 0 finished", "+ ADIOS, seed 1 finished"]
    assert browser.switch_to.active_element.text == shown[0]
    one(browser, "#run-2 details summary").click()
    assert texts(browser, "#run-2 pre") == ["epochs: 4\nlr: 0.1"]
    one(browser, "#runs-all").click()
    wait(lambda: one(browser, "#runs-text").text == "7 of 7 runs")


def test_cell__of_one_run_opens_it(browser: Any) -> None:
    browser.find_elements("css selector", ".data td a")[3].click()
    wait(lambda: one(browser, "#runs-text").text == "1 of 7 runs")
    configuration, provenance, log = texts(browser, "#run-6 pre")
    assert configuration == "epochs: 4\nlr: 0.3"
    assert "run.py 'seed=0 1'" in provenance
    assert log == "step 1 loss 4.2\nstep 2 loss 4.1"


def test_run__shows_its_details_when_it_is_opened(browser: Any) -> None:
    one(browser, "#run-0 > summary").click()
    wait(lambda: "Configuration" in texts(browser, "#run-0 details summary"))
    one(browser, "#runs-words").send_keys("sequential 1")
    assert len(texts(browser, "details.run")) == 2  # the label of one, a score of the other
    assert one(browser, "#runs-text").text == "2 of 7 runs"


def test_slider__moves_all_images_and_the_text(browser: Any) -> None:
    images = browser.find_elements("css selector", "img.strip")
    output = one(browser, "#moment-text")
    assert output.text == "100% of training: step 40, epoch 4"
    late = [(image.get_attribute("src"), image.get_attribute("alt")) for image in images]
    browser.execute_script("document.querySelector('#moment').focus()")
    press(browser, "ARROW_LEFT")
    assert output.text == "50% of training: step 20, epoch 2"
    assert one(browser, "#moment").get_attribute("aria-valuetext") == output.text
    early = [(image.get_attribute("src"), image.get_attribute("alt")) for image in images]
    assert len(images) == 2
    assert all(a != c and b != d for (a, b), (c, d) in zip(early, late, strict=True))
    assert "step 20, epoch 2\n50% hidden, seed 0" in one(browser, ".strips").text


def test_play__runs_to_the_end(browser: Any) -> None:
    button = one(browser, "#play")
    button.click()
    assert one(browser, "#moment-text").text.startswith("0% of training")
    assert button.text == "Pause"
    wait(lambda: button.text == "Play")
    assert one(browser, "#moment-text").text.startswith("100% of training")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_theme__is_as_preferred_until_it_is_switched(browser: Any, scheme: str) -> None:
    prefer(browser, scheme)
    grounds = {"light": "rgba(255, 255, 255, 1)", "dark": "rgba(21, 24, 28, 1)"}
    body, button = one(browser, "body"), one(browser, "#theme")
    other = "dark" if scheme == "light" else "light"
    for now in (scheme, other, scheme):
        wait(lambda now=now: body.value_of_css_property("background-color") == grounds[now])
        assert (button.get_attribute("aria-pressed") == "true") == (now == "dark")
        button.click()


@pytest.mark.parametrize("key", ["ENTER", "SPACE"])
def test_picture__opens_full_size_and_closes(browser: Any, key: str) -> None:
    browser.execute_script("document.querySelector('.enlarge').focus()")
    press(browser, key)
    shown = one(browser, "dialog[open] img")
    assert shown.get_attribute("alt") == "Bars: SimCLR 9.50, + ADIOS 100.00."
    assert shown.size["width"] == 600
    press(browser, "ESCAPE")
    wait(lambda: not browser.find_elements("css selector", "dialog[open], dialog img"))


def test_tab__reaches_every_control_in_order(browser: Any) -> None:
    reached = []
    for _ in range(60):
        press(browser, "TAB")
        active = browser.switch_to.active_element
        reached.append(active.get_attribute("id") or active.get_attribute("class") or active.text)
    for name in ("skip", "theme", "table-1-1-words", "scroll", "sort", "enlarge", "play", "moment"):
        assert name in reached, name
    places = [
        reached.index(name) for name in ("skip", "theme", "table-1-1-words", "sort", "moment")
    ]
    assert places == sorted(places)
    assert "runs-words" in reached


def test_phone__nothing_is_wider_than_the_screen(browser: Any) -> None:
    resize(browser, 360, 740)
    one(browser, "#run-0 > summary").click()
    assert browser.execute_script("return document.scrollingElement.scrollWidth") <= 360
    wide = """return [...document.querySelectorAll('body *')]
        .filter(e => !e.closest('.scroll, pre, .skip') && e.getBoundingClientRect().right > 360)
        .map(e => e.outerHTML.slice(0, 80))"""
    assert browser.execute_script(wide) == []


@pytest.mark.skipif(not shutil.which("pdftotext"), reason="needs poppler-utils")
def test_print__has_the_tables_and_no_controls(browser: Any, tmp_path: Path) -> None:
    prefer(browser, "dark")
    (tmp_path / "page.pdf").write_bytes(base64.b64decode(browser.print_page()))
    done = subprocess.run(
        ["pdftotext", tmp_path / "page.pdf", "-"], capture_output=True, text=True, check=True
    )
    text = " ".join(done.stdout.split())
    assert done.stdout.count("\f") >= 1
    assert "Table 1. Scores of three methods, in percent." in text
    assert "Linear: a linear classifier." in text
    assert "Filter rows" not in text
    assert "seed 1 finished" not in text


def test_network__only_the_file_is_read(browser: Any) -> None:
    browser.find_elements("css selector", ".data td a")[1].click()
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert any(url.startswith("file:") for url in asked)
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))] == []


def test_without_javascript__tables_pictures_and_scores_are_shown(
    browser: Any, address: str
) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get("about:blank")
        browser.get(address)
        assert "need JavaScript" in one(browser, "noscript").text
        assert labels(browser) == ORIGINAL
        assert texts(browser, ".tools, button") == []
        browser.find_elements("css selector", ".data td a")[3].click()
        assert browser.current_url.endswith("#run-6")
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_hostile_text__stays_text(driver: Any, tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script><!--<img src=x onerror=alert(1)>\x00\"'"
    report = sample_report(tmp_path)
    run = replace(report.runs[6], label=hostile, log=hostile, state=hostile, scores=[hostile])
    page = replace(
        report,
        title=hostile,
        runs=[*report.runs[:6], run],
        configs={run.hash8: {"name": hostile}},
        left_out=[hostile],
    )
    driver.get(f"{write_page(page, tmp_path / 'hostile.html').as_uri()}#run-6")
    shown = hostile.replace("\x00", "\ufffd")
    assert driver.title == shown
    assert texts(driver, "#run-6 pre")[2] == shown
    assert driver.execute_script("return document.scripts.length") == 3
    assert driver.find_elements("css selector", "[onerror]") == []
    assert driver.get_log("browser") == []
