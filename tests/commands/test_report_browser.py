"""The report as a browser shows it: Debian's chromium, without a screen."""

import json
import shutil

import numpy as np
import pytest
import synthetic_sweeps
from PIL import Image

from ddpm_jax.commands.report import drawing, report
from ddpm_jax.sweeps import aggregates, results
from ddpm_jax.sweeps import page as sweep_page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no chromium to look with")

# Nothing but the page: no update, no sync, no crash reports; root may not have a sandbox.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDTHS = {"phone": (360, 780), "desk": (1280, 900)}


@pytest.fixture(scope="module")
def address(finished_run, tmp_path_factory):
    """The report of two runs with everything in it, as a file's address."""
    folder = tmp_path_factory.mktemp("browsed")
    workdirs = [folder / name for name in ("one", "two")]
    for workdir in workdirs:
        shutil.copytree(finished_run.workdir, workdir)
        (workdir / "eval").mkdir()
        noise = np.random.default_rng(0).integers(0, 256, (64, 900)).astype(np.uint8)
        Image.fromarray(noise).save(workdir / "eval" / "a_nearest.png")
        for nfe in (5, 50):
            (workdir / "eval" / f"a_{nfe}.json").write_text(json.dumps(evaluation(nfe)))
    drawn = drawing.drawn(finished_run.workdir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "drawn", lambda *_: drawn)  # of both, once
        out = report.report([str(workdir) for workdir in workdirs], str(folder / "a.html"))
    return out.as_uri()


def evaluation(nfe):
    fid = {"value": 10 / nfe, "low": 9 / nfe, "high": 12 / nfe, "interval": "bootstrap, 95%"}
    metrics = {f"metric_with_a_long_name_{k}": {"value": k} for k in range(12)}
    return {
        "format": 2,
        "protocol": {"num_samples": 500, "sampling": {"sampler": "ddim"}},
        "samples": [{"guidance_scale": 2.0, "nfe": nfe, "metrics": {"fid": fid, **metrics}}],
    }


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def look(browser, address):
    """look(width, scheme) opens the report; at the end nothing was said and nothing asked for."""
    said, asked, opened = [], [], []

    def open_page(width="desk", scheme="light"):
        size = dict(zip(("width", "height"), WIDTHS[width], strict=True))
        page = browser.new_page(viewport=size, color_scheme=scheme)
        opened.append(page)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        return page

    yield open_page
    for page in opened:
        page.close()
    assert said == []
    assert {url for url in asked if not url.startswith("data:image/")} == {address}


@pytest.mark.wide(3)
def test_every_picture_is_there(look):
    page = look()
    widths = page.eval_on_selector_all("img", "all => all.map(i => i.naturalWidth)")
    assert len(widths) == 2 * (2 + 1 + 1)  # of each run: samples, the film, its neighbours
    assert min(widths) > 0


def test_the_slider_moves_the_picture_and_its_caption(look):
    page = look()
    box = page.locator("[data-slides]").first
    slider, said = box.get_by_role("slider"), box.locator("output")
    assert (said.inner_text(), box.locator("img:visible").count()) == ("step 800", 1)
    last = box.locator("img:visible").get_attribute("src")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert (said.inner_text(), box.locator("img:visible").count()) == ("step 400", 1)
    assert box.locator("img:visible").get_attribute("src") != last
    assert slider.get_attribute("aria-valuetext") == "step 400"
    # The other run's stays where it was.
    assert page.locator("[data-slides] output").nth(1).inner_text() == "step 800"
    box.get_by_role("button", name="Play").click()
    # By its own clock: the page's policy lets nobody wait inside of it.
    pytest.importorskip("playwright.sync_api").expect(said).to_have_text("step 800")
    assert box.locator("img:visible").get_attribute("src") == last


def test_a_chart_tells_its_values_by_key_and_by_pointer(look):
    page = look()
    chart = page.locator("figure.chart").first
    plot = json.loads(chart.get_attribute("data-plot"))
    chart.locator(".plot").focus()
    page.keyboard.press("Home")
    x, y = (plot["series"][0][axis][0] for axis in "xy")
    told = chart.locator("output").inner_text()
    assert told.startswith(f"step {x:g} ")
    assert float(f"{y:.4g}") == float(told.split("one ")[1].split()[0])
    chart.locator(".area").hover(position={"x": 300, "y": 50})
    assert chart.locator("output").inner_text() != told
    assert chart.locator(".cursor").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(look, scheme):
    page = look("phone", scheme)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == WIDTHS["phone"][0]
    # What is wider scrolls in its own box, and there is something that is.
    wider = "all => all.filter(b => b.scrollWidth > b.clientWidth).length"
    assert page.eval_on_selector_all(".scroll", wider) >= 2


def test_names_of_any_length_stay_in_their_boxes(finished_run, tmp_path, browser):
    workdirs = [tmp_path / f"{'a_long_name' * 6}_{k}" for k in range(2)]
    for workdir in workdirs:
        ignored = shutil.ignore_patterns("checkpoints")
        shutil.copytree(finished_run.workdir, workdir, ignore=ignored)
    out = report.report([str(w) for w in workdirs], str(tmp_path / "a.html"), draw=False)
    for width in WIDTHS.values():
        page = browser.new_page(viewport=dict(zip(("width", "height"), width, strict=True)))
        page.goto(out.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width[0]
        beyond = "all => all.filter(b => b.scrollWidth > b.clientWidth).length"
        assert page.eval_on_selector_all("h1, .card, .card h3, .legend, .pictures", beyond) == 0
        page.close()


def test_nothing_is_wider_than_paper(look):
    page = look()
    page.set_viewport_size({"width": 720, "height": 1000})  # A4 within its margins
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") == 720


def test_names_of_rows_stay_while_figures_scroll(look):
    page = look("phone")
    places = page.eval_on_selector(
        ".scroll:has(.named)",
        """box => {
          const left = () => ["tbody th", "tbody td:last-child"].map(
            s => box.querySelector(s).getBoundingClientRect().left);
          const before = left(); box.scrollLeft = 200; return [before, left()];
        }""",
    )
    (name, figure), (name_after, figure_after) = places
    assert name_after == name
    assert figure_after == figure - 200


def brightness(page):
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(float(part) for part in colour.strip("rgb()").split(","))


def contrast(page, selector):
    """Of the text of an element to the page, as WCAG 2.1 counts it."""

    def luminance(colour):
        channels = [float(part) / 255 for part in colour.strip("rgb()").split(",")[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    colours = page.evaluate(
        "s => [getComputedStyle(document.querySelector(s)).color,"
        " getComputedStyle(document.body).backgroundColor]",
        selector,
    )
    dark, light = sorted(map(luminance, colours))
    return (light + 0.05) / (dark + 0.05)


def test_the_dark_page_is_dark_and_both_can_be_read(look):
    light, dark = look(scheme="light"), look(scheme="dark")
    assert brightness(light) > 600
    assert brightness(dark) < 120
    for page in (light, dark):
        for selector in ("body", ".note", "nav a", ".tick"):
            assert contrast(page, selector) >= 4.5, selector
        for selector in ("svg .c0", "svg .c1"):
            assert contrast(page, selector) >= 3, selector


def test_without_the_script_all_pictures_stand_in_a_row(browser, address):
    page = browser.new_page(java_script_enabled=False)
    page.goto(address)
    assert page.locator("[data-slides] img:visible").count() == 4
    assert page.locator(".slider:visible").count() == 0
    page.close()


def test_the_page_of_a_sweep_says_nothing_asks_for_nothing_and_fits(browser, tmp_path):
    fields = '{"optim.learning_rate": (1e-4, 1e-3, 1e-2), "ema.decay": (0.99, 0.999)}'
    measured = 'evaluate = dict(metrics=("fid",))'
    sweep = synthetic_sweeps.sweep(tmp_path, f"grid({fields}, seeds(3))", measured)
    synthetic_sweeps.write(sweep, tmp_path / "w", lambda cell: {"fid": cell.seed + 2.5})
    report = aggregates.aggregate(results.read(sweep, tmp_path / "w"))
    (tmp_path / "report.html").write_text(sweep_page.page(report))
    said, asked = [], []
    for width, height in WIDTHS.values():
        shown = browser.new_page(viewport={"width": width, "height": height})
        shown.on("console", lambda message: said.append(message.text))
        shown.on("pageerror", lambda error: said.append(str(error)))
        shown.on("request", lambda request: asked.append(request.url))
        shown.goto((tmp_path / "report.html").as_uri())
        shown.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        assert shown.evaluate("document.documentElement.scrollWidth") == width
        chart = shown.locator("figure.chart[data-plot]").first
        chart.locator(".plot").focus()
        shown.keyboard.press("Home")
        assert chart.locator("output").inner_text()
        shown.close()
    assert said == []
    assert {*asked} == {(tmp_path / "report.html").as_uri()}
