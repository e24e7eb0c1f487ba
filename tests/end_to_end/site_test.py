"""The built site in a browser: nothing is fetched from elsewhere, nothing is wider than the page, the search finds.

Needs a built site (`make docs`), playwright and Debian's `chromium`, or the program that MAMLPP_CHROMIUM names.
Screenshots go to the folder that MAMLPP_SCREENSHOTS names.
"""

import functools
import http.server
import os
import pathlib
import shutil
import threading

import pytest

SITE = pathlib.Path(__file__).parents[2] / "docs" / "_build" / "html"
CHROMIUM = os.environ.get("MAMLPP_CHROMIUM") or shutil.which("chromium")
PAGES = ["index", "tutorials/quickstart", "reference/api", "results/comparisons"]
PAGES += ["guide/configuration", "concepts/outer_step"]

pytestmark = pytest.mark.slow


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def address():
    if not (SITE / "index.html").exists():
        pytest.skip("there is no built site; `make docs` makes it")
    handler = functools.partial(_Silent, directory=str(SITE))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("there is no chromium; Debian's package `chromium` has it")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser, address):
    """Opens a page and fails at its end if it complained or asked another host."""
    faults, contexts = [], []

    def check(request):
        if not request.url.startswith((address, "data:", "blob:")):
            faults.append(request.url)

    def open_(name, width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("request", check)
        page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(f"{address}/{name}")
        page.wait_for_load_state("networkidle")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not faults


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_wider_than_the_page(open_page, name, width, scheme):
    page = open_page(f"{name}.html", width, scheme)
    if folder := os.environ.get("MAMLPP_SCREENSHOTS"):
        path = pathlib.Path(folder) / f"{name.replace('/', '-')}-{width}-{scheme}.png"
        page.screenshot(path=str(path))
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("word", ["LSLR", "reject", "ResNet-12"])
def test_the_search_finds(open_page, word):
    page = open_page(f"search.html?q={word}")
    page.wait_for_selector("ul.search li", timeout=20_000)
