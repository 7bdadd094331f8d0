"""The page of `serve --web` in a real browser: its numbers are those of the RPCs, and it outlives its daemon."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from e2e.ftl_world import POLL_S, WAIT_S, FtlWorld
from spdk_ftl_py.client import DaemonClient
from spdk_ftl_py.daemon import web
from spdk_ftl_py.rates import percentile
from support.drive import HOST_NQN, write_at_random
from support.processes import Daemon, free_port, target_process
from support.tools import need

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
# selenium leaves its connection to the driver open until it is collected.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True, scope="module")
def tools() -> None:
    need("chromium", "chromedriver")


NAME = "a.B-c:d_9"
DRIVE = "name=Nvme0n1,zones=130,zone_size=1M,capacity=768K,max_open=14"
ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    "--window-size=1280,1000",
)


class Page:
    """A browser of its own."""

    def __init__(self, folder: Path) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for argument in (*ARGUMENTS, f"--user-data-dir={folder / 'profile'}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        # Everything of the browser that a test leaves stays in its folder.
        service = Service(str(DRIVER), env={**os.environ, "HOME": str(folder), "TMPDIR": str(folder)})
        self.driver = webdriver.Chrome(options=options, service=service)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        found = self.run("const at = document.querySelector(arguments[0]); return at && at.textContent", selector)
        return str(found or "")

    def choose(self, colouring: str) -> None:
        self.run("document.querySelector(`[name=colouring][value=${arguments[0]}]`).click()", colouring)

    def pixels(self) -> str:
        return str(self.run("return document.getElementById('map').toDataURL()"))

    def until(self, wanted: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + WAIT_S
        while not (found := wanted()):
            assert time.monotonic() < deadline, f"{what}: {self.text('body')}\n{self.driver.get_log('browser')}"
            time.sleep(POLL_S)
        return found

    def complaints(self) -> list[str]:
        """Of the browser's console, since the last call."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    page = Page(tmp_path_factory.mktemp("browser"))
    try:
        yield page
    finally:
        page.driver.quit()


@pytest.fixture
def page(browser: Page) -> Iterator[Page]:
    """The browser, which has forgotten what it showed before."""
    yield browser
    browser.driver.get("about:blank")
    browser.complaints()


@pytest.fixture
def world(folder: Path) -> Iterator[tuple[FtlWorld, str]]:
    """With a daemon that has a page, and where that is."""
    port = free_port()
    with target_process(folder, "--zns", DRIVE) as target, Daemon(folder, "--web", str(port)) as daemon:
        world = FtlWorld(folder, target, daemon)
        world.tcp()
        yield world, f"http://127.0.0.1:{port}/"


def create(world: FtlWorld) -> dict[str, Any]:
    """An FTL of one zone a band, at an export that lets the test in."""
    given = {"name": NAME, "base_bdev": "Nvme0n1", "target": world.target.socket, "hosts": [HOST_NQN]}
    DaemonClient(world.daemon.socket).bdev_ftl_create(**given, num_punits=1)  # type: ignore[arg-type]
    return world.devices()[NAME]


def fill(device: dict[str, Any], times: int) -> None:
    export = device["export"]
    asyncio.run(write_at_random(export["traddr"], export["trsvcid"], export["subnqn"], times=times))


def legend(page: Page) -> dict[str, int]:
    """Bands in each state, as the legend has them."""
    items: list[str] = page.run("return [...document.querySelectorAll('#legend li')].map((each) => each.textContent)")
    words = [item.replace(",", "").split() for item in items]
    return {each[0]: int(each[-1]) for each in words}


def test_the_page_shows_the_ftl_as_the_rpcs_tell_it(world: tuple[FtlWorld, str], page: Page) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    here, url = world
    client = DaemonClient(here.daemon.socket)
    assert client.ftl_get_daemon()["urls"]["web"] == url
    page.driver.get(url)
    page.until(lambda: "no FTLs" in page.text("#banner"), "an empty daemon says so")
    device = create(here)
    page.until(lambda: page.text("#badge") == "online", "the FTL is online")
    assert NAME in page.text("#chooser")
    page.until(lambda: page.text("#free") == str(client.bdev_ftl_get_stats(name=NAME)["free_bands"]), "free bands")
    before = page.pixels()
    fill(device, 1)

    stats = client.bdev_ftl_get_stats(name=NAME)
    assert stats["gc_moved_blocks"] > 0
    page.until(lambda: page.pixels() != before, "the map changes under writes")
    page.until(
        lambda: legend(page) == client.bdev_ftl_get_stats(name=NAME)["bands"], "the legend counts bands by state"
    )
    stats = client.bdev_ftl_get_stats(name=NAME)
    page.until(lambda: page.text("#free") == str(stats["free_bands"]), "free bands")
    assert page.text("#free-of") == f"of {device['num_bands']}"
    assert page.text("#wa-all") == f"{stats['write_amplification']:.2f} since load"
    assert page.text("#share") == f"{stats['user_share']} %"
    assert f"{stats['zone_resets']:,} since load" in page.text("#facts")
    start = stats["limits"]["start"]["free_bands"]
    assert f"start {start}" in page.text("#gauge")
    assert page.run("return document.querySelectorAll('path.series').length") >= 3

    # Another band below the pointer, and the next one with the keyboard.
    canvas = page.driver.find_element(By.ID, "map")
    ActionChains(page.driver).move_to_element(canvas).perform()
    assert page.until(lambda: page.text("#band").startswith("Band "), "a band below the pointer")
    canvas.send_keys(Keys.HOME, Keys.ARROW_RIGHT)
    told = page.until(lambda: page.text("#band").startswith("Band 1:") and page.text("#band"), "the second band")
    # Zones 0 and 1 have the superblock.
    assert "zone 3 " in told
    assert "blocks valid" in told or "free" in told
    maps = set()
    for colouring in ("state", "valid", "age", "resets"):
        page.choose(colouring)
        maps.add(page.pixels())
    assert len(maps) == 4
    assert page.complaints() == []


def test_the_page_outlives_its_daemon_and_an_ftl_may_wait(world: tuple[FtlWorld, str], page: Page) -> None:
    here, url = world
    create(here)
    client = DaemonClient(here.daemon.socket)
    client.bdev_ftl_create(name="later", base_bdev='<img src=x onerror="alert(1)">', target=Path(here.target.socket))
    page.driver.get(url)
    page.until(lambda: page.text("#badge") == "online", "the FTL is online")
    later = next(each["uuid"] for each in client.ftl_get_devices() if each["name"] == "later")
    page.run("location.hash = arguments[0]", later)
    page.until(lambda: page.text("#badge") == "deferred", "the other FTL waits")
    assert 'base bdev <img src=x onerror="alert(1)"> does not exist' in page.text("#banner")
    assert page.run("return document.querySelectorAll('img').length") == 0
    page.run("location.hash = ''")
    page.until(lambda: page.text("#badge") == "online", "the first FTL is back")
    assert page.complaints() == []

    here.daemon.kill()
    page.until(lambda: page.text("#badge") == "no answer", "the page says that the daemon is gone")
    assert "does not answer" in page.text("#banner")
    with Daemon(here.folder, "--web", url.rstrip("/").rpartition(":")[2]) as daemon:
        page.until(lambda: page.text("#badge") == "online" and page.run("return banner.hidden"), "it is back")
        page.until(lambda: f"process {daemon.process.pid}" in page.text("#daemon"), "it is the new one")
        stats = DaemonClient(daemon.socket).bdev_ftl_get_stats(name=NAME)
        page.until(lambda: sum(legend(page).values()) == sum(stats["bands"].values()), "all bands are there")
    # What the browser itself says of requests that nobody answered.
    assert [each for each in page.complaints() if "net::ERR" not in each] == []


HISTOGRAMS: list[tuple[list[list[int | None]], list[list[int | None]]]] = [
    ([], [[1, 0], [2, 7], [4, 7], [8, 20]]),
    ([[1, 5], [2, 9], [4, 9]], [[1, 5], [2, 9], [4, 10]]),
    ([[1, 0], [2, 100], [4, 100]], [[1, 0], [2, 100], [4, 100]]),
    ([[1, 0], [2, 3], [4, 50]], [[1, 10], [2, 40], [4, 150]]),
    ([[1, 0], [2, 3], [None, 4]], [[1, 10], [2, 40], [None, 150]]),
    ([], [[1, 0], [2, 0], [None, 10]]),
]


@pytest.fixture
def files() -> Iterator[str]:
    """Where the files of the page are, without a daemon."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = partial(Quiet, directory=str(Path(web.__file__).with_name("files")))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def test_the_page_estimates_latencies_as_python_does(files: str, page: Page) -> None:
    page.driver.get(f"{files}icon.svg")
    cases = [(before, after, part) for before, after in HISTOGRAMS for part in (0.1, 0.5, 0.99, 1.0)]
    script = """
        const [cases, done] = arguments;
        import("./rates.js").then(({ percentile }) => done(JSON.stringify(cases.map((each) => percentile(...each)))));
    """
    assert json.loads(page.driver.execute_async_script(script, cases)) == [
        pytest.approx(percentile(*case)) if percentile(*case) is not None else None for case in cases
    ]
