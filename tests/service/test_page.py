"""The page of `vramx serve` in a real browser: what it shows is what the library makes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.clips import picture, write_clip
from pipelines.face_networks import background, draw_face, portrait
from vramx.session.options import SessionOptions
from vramx.tasks import FaceModels, FacesTask, SwapTask, UpscalerSpec, UpscaleTask, run

from . import browsing
from .browsing import Visit, sync_api
from .page_networks import GATE
from .serving import FRAMES, MODELS, SHARE, settings

expect = sync_api.expect

TOKEN = "0123456789abcdefghij"
#: Whether a picture is there; its pixels' digest, as Pillow's and NumPy's would be.
LOADED = """selector => {
    const image = document.querySelector(selector);
    return image !== null && image.complete && image.naturalWidth > 0;
}"""
DIGEST = """async selector => {
    const image = document.querySelector(selector);
    const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data));
    return [...digest].map(each => each.toString(16).padStart(2, "0")).join("");
}"""
#: Texts whose contrast is less than WCAG's AA asks for, and the page's luminance.
CONTRASTS = """() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const linear = each => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4;
    const luminance = layers => {
        canvas.clearRect(0, 0, 1, 1);
        for (const layer of layers) { canvas.fillStyle = layer; canvas.fillRect(0, 0, 1, 1); }
        const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(each => linear(each / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const layersOf = element => {
        const layers = [];
        for (let each = element; each !== null; each = each.parentElement) {
            layers.unshift(getComputedStyle(each).backgroundColor);
        }
        return layers;
    };
    const weak = [];
    for (const element of document.querySelectorAll("body *")) {
        const texts = [...element.childNodes]
            .filter(each => each.nodeType === Node.TEXT_NODE && each.data.trim());
        if (!texts.length || !element.checkVisibility()) continue;
        const layers = layersOf(element);
        const [one, other] = [
            luminance(layers), luminance([...layers, getComputedStyle(element).color]),
        ].sort((a, b) => b - a);
        const contrast = (one + 0.05) / (other + 0.05);
        if (contrast < 4.5) weak.push(`${texts[0].data.trim()}: ${contrast.toFixed(2)}`);
    }
    return [weak, luminance(layersOf(document.body))];
}"""
#: What can be seen and lies beside the screen.
OUTSIDE = """() => [...document.querySelectorAll("body *")]
    .filter(each => each.checkVisibility() && each.getBoundingClientRect().right > innerWidth)
    .map(each => each.outerHTML.slice(0, 80))"""

MODEL = "realesr-animevideov3"  # trained, and quick on a processor
CARD = SessionOptions(budget=SHARE, backend="simulated")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's folder, with a gate for the network that waits."""
    folder = tmp_path_factory.mktemp("served")
    browsing.write_models(folder / "models")
    os.mkfifo(folder / GATE)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing.browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def address(browser: Any, folder: Path, cache_home: Path) -> Iterator[str]:  # noqa: ARG001
    with browsing.server(folder, cache_home) as address:
        yield address


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Callable[..., Visit]]:
    """Open the page as on some screen; nothing may have gone wrong in it."""
    visits = []
    contexts = []

    def open_one(**screen: Any) -> Visit:
        given = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"}
        contexts.append(browser.new_context(**{**given, **screen}))
        visits.append(Visit(contexts[-1].new_page(), address))
        return visits[-1]

    yield open_one
    for each in contexts:
        each.close()
    assert [each.wrong for each in visits] == [[] for _ in visits]


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from skimage import data

    path = tmp_path_factory.mktemp("photograph") / "astronaut.png"
    Image.fromarray(np.ascontiguousarray(data.astronaut()[20:188, 130:354])).resize(
        (112, 84), Image.Resampling.LANCZOS
    ).save(path)
    return path


@pytest.fixture(scope="module")
def enlarged(photograph: Path, cache_home: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What the library makes of the photograph."""
    target = tmp_path_factory.mktemp("enlarged") / "result.png"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache_home))
        run(UpscaleTask(source=photograph, target=target, model=UpscalerSpec(MODEL), session=CARD))
    return target.read_bytes()


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of two people, and portraits."""
    folder = tmp_path_factory.mktemp("people")
    pair = draw_face(draw_face(background(), "green", 12, 8), "red", 40, 78)
    Image.fromarray(pair).save(folder / "pair.png")
    for person in ("blue", "red"):
        Image.fromarray(portrait(person)).save(folder / f"{person}.png")
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture that takes no time."""
    path = tmp_path_factory.mktemp("small") / "small.png"
    Image.fromarray(picture(0)).save(path)
    return path


def pixels(content: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))


def digest(content: bytes) -> str:
    return hashlib.sha256(pixels(content).tobytes()).hexdigest()


def downloaded(seen: Visit) -> bytes:
    with seen.page.expect_download() as waiting:
        seen.page.click("#save")
    return Path(waiting.value.path()).read_bytes()


def shown(seen: Visit, which: str) -> str:
    """The digest of the pixels of a picture that is shown."""
    seen.page.wait_for_function(LOADED, arg=f".compare .{which}")
    return str(seen.page.evaluate(DIGEST, f".compare .{which}"))


def progress(row: Any) -> float:
    return float(row.locator("progress").evaluate("bar => bar.value"))


def enlarge(seen: Visit, path: Path, model: str, name: str | None = None) -> Any:
    """Drop a file and start a job with it; its row, once it is done."""
    seen.drop("#target", path, name=name)
    seen.page.select_option("#model", model)
    seen.page.click("#start")
    return seen.state(name or path.name, "done")


# Pictures


def test_a_dropped_photograph_comes_back_four_times_larger_as_the_library_makes_it(
    visit: Any, photograph: Path, enlarged: bytes
) -> None:
    seen = visit()
    enlarge(seen, photograph, MODEL)
    assert shown(seen, "after") == digest(enlarged)
    assert shown(seen, "before") == digest(photograph.read_bytes())
    assert np.array_equal(pixels(downloaded(seen)), pixels(enlarged))
    before, after = (np.array(pixels(each).shape) for each in (photograph.read_bytes(), enlarged))
    assert [*after[:2]] == [*4 * before[:2]]
    expect(seen.page.locator("#shape")).to_have_text(
        f"{after[1]} \N{MULTIPLICATION SIGN} {after[0]}"
    )
    seen.page.mouse.move(0, 0)
    seen.screenshot("enlarged-light")


def test_arrow_keys_move_the_slider_and_what_is_seen(visit: Any, small: Path) -> None:
    seen = visit()
    enlarge(seen, small, "tiny", "slider.png")
    shown(seen, "after")
    slider = seen.page.locator(".compare input")

    def look(key: str, times: int = 1) -> tuple[float, np.ndarray[Any, Any]]:
        for _ in range(times):
            slider.press(key)
        picture = pixels(seen.page.locator(".compare").screenshot())
        return float(slider.input_value()), picture[30:, 12:-12].astype(int)  # below the words

    (none, after), (all_, before) = look("Home"), look("End")
    assert (none, all_) == (0, 100)
    at, both = look("ArrowLeft", 40)
    assert at == pytest.approx(60)
    _, width, _ = both.shape
    left, right = np.s_[:, : width // 2], np.s_[:, 3 * width // 4 :]
    assert np.abs(after - before)[left].mean() > 10
    for part, same, other in ((left, before, after), (right, after, before)):
        assert np.array_equal(both[part], same[part])
        assert not np.array_equal(both[part], other[part])


def test_two_chosen_faces_are_swapped_as_the_library_does(
    visit: Any, people: Path, tmp_path: Path
) -> None:
    seen = visit()
    seen.drop("#target", people / "pair.png")
    seen.page.get_by_text("Swap faces", exact=True).click()
    faces = seen.page.locator("#people li")
    expect(faces).to_have_count(2)
    seen.page.click("#start")
    expect(seen.page.locator("#wrong")).to_have_text("Drop a picture of the face to put there.")
    seen.page.set_input_files("#source input", [people / "blue.png", people / "red.png"])
    expect(seen.page.locator("#sources li")).to_have_count(2)
    faces.nth(1).locator("label").click()
    faces.nth(0).locator("select").select_option(label="red.png")
    faces.nth(1).locator("select").select_option(label="blue.png")
    seen.screenshot("faces-light")
    seen.page.click("#start")
    seen.page.locator(".job", has_text="faces swapped by").first.wait_for()
    seen.page.locator("#stage-title", has_text="pair.png").wait_for()

    models = FaceModels.from_dict(MODELS["people"]["faces"])
    pair, out = people / "pair.png", tmp_path / "out.png"
    found = run(FacesTask(target=pair, folder=tmp_path / "found", models=models, session=CARD))
    run(
        SwapTask(
            source=(people / "red.png", people / "blue.png"),
            references=tuple(each.path for each in found.thumbnails),
            target=pair,
            out=out,
            models=models,
            session=CARD,
        )
    )
    assert shown(seen, "after") == digest(out.read_bytes())
    changed = (pixels(out.read_bytes()) != pixels(pair.read_bytes())).any(-1)
    assert changed[:, :64].any()
    assert changed[:, 64:].any()
    seen.screenshot("swapped-light")


# Jobs


def test_a_clip_moves_on_is_there_after_a_reload_is_cancelled_and_resumed(
    visit: Any, folder: Path, tmp_path: Path
) -> None:
    seen = visit()
    write_clip(tmp_path / "clip.mp4", FRAMES)
    seen.drop("#target", tmp_path / "clip.mp4")
    seen.page.select_option("#model", "held")
    seen.page.fill("#budget", "2MiB")  # which takes few frames at once
    seen.page.click("#start")
    expect(seen.job("clip.mp4").locator(".told")).to_have_text(
        re.compile(rf"[1-9]\d* of {FRAMES} frames, about .* left")
    )
    before = progress(seen.job("clip.mp4"))
    assert 0 < before < 1
    expect(seen.page.locator("#sessions")).to_have_text("1 job on the card, with 64 KiB of models.")
    expect(seen.page.locator("#peak")).to_have_text(re.compile("at most .*iB/s"))
    parts = "each => [...each.children].map(part => Number(part.style.flexGrow))"
    assert sum(seen.page.locator("#bar").evaluate(parts)) == pytest.approx(1)
    expect(seen.page.locator("#bar")).to_have_attribute(
        "aria-label", re.compile(r"^Of 64 MiB, .*free: 62 MiB$")
    )
    long = f"each => each.textContent = '{10**6} of {10**6} frames, about 59 minutes left'"
    seen.job("clip.mp4").locator(".told").evaluate(long)
    height = seen.job("clip.mp4").bounding_box()["height"]
    seen.screenshot("running-light")

    seen.page.reload()
    row = seen.state("clip.mp4", "running")
    assert before <= progress(row) < 1
    row.get_by_role("button", name="Cancel").click()
    expect(row).to_contain_text("stopping")
    (folder / GATE).write_bytes(b"")
    seen.state("clip.mp4", "cancelled").get_by_role("button", name="Resume").click()
    (folder / GATE).write_bytes(b"")
    row = seen.state("clip.mp4", "done")
    assert row.bounding_box()["height"] == height
    row.get_by_role("button", name="Show").click()
    for player, scale in ((0, 1), (1, 2)):
        video = seen.page.locator("#frame video").nth(player)
        expect(video).to_have_js_property("videoWidth", scale * 64)
    row.get_by_role("button", name="Remove").click()
    expect(seen.page.locator("#jobs .job", has_text="clip.mp4")).to_have_count(0)
    expect(seen.page.locator("#frame video")).to_have_count(0)


def test_an_upload_stays_while_the_page_or_a_job_needs_it(visit: Any, small: Path) -> None:
    seen = visit()

    def made_and_removed(name: str) -> str:
        row = seen.state(name, "done")
        job = seen.page.request.get(f"{seen.address}/api/jobs/{row.get_attribute('data-job')}")
        row.get_by_role("button", name="Remove").click()
        expect(seen.page.locator("#jobs .job", has_text=name)).to_have_count(0)
        return f"{seen.address}/api/files/{job.json()['request']['source']['file']}"

    enlarge(seen, small, "doubling", "first.png")
    first = made_and_removed("first.png")
    seen.page.click("#start")  # the form still shows the file
    assert made_and_removed("first.png") == first
    with seen.page.expect_request(lambda request: request.method == "DELETE") as removing:
        seen.drop("#target", small, name="second.png")
    assert removing.value.url == first
    assert removing.value.response().status == 204


def test_names_of_files_are_text(visit: Any, small: Path) -> None:
    name = "<img src=x onerror=alert(1)>&amp;.png"
    seen = visit()
    row = enlarge(seen, small, "doubling", name)
    expect(row.locator(".name")).to_have_text(name)
    expect(seen.page.locator("#target strong")).to_have_text(name)
    expect(seen.page.locator("#stage-title")).to_contain_text(name)
    assert seen.page.locator("img[src=x]").count() == 0


def test_what_the_service_refuses_is_told_in_its_words(
    visit: Any, small: Path, tmp_path: Path
) -> None:
    seen = visit()
    seen.page.click("#start")
    expect(seen.page.locator("#wrong")).to_have_text("Choose a picture or a clip first.")
    seen.drop("#target", small)
    seen.page.fill("#budget", "1TiB")
    seen.page.click("#start")
    expect(seen.page.locator("#wrong")).to_contain_text("'1TiB' is more than all jobs together")
    (tmp_path / "text.png").write_text("no picture")
    seen.drop("#target", tmp_path / "text.png")
    expect(seen.page.locator("#wrong")).to_contain_text("text.png")
    statuses = [text.partition("status of ")[2][:3] for text in seen.wrong]
    assert statuses == ["422", "415"]
    seen.wrong.clear()


# People


def test_the_keyboard_alone_makes_and_sees_a_result(visit: Any, small: Path) -> None:
    seen = visit()
    page = seen.page
    page.on("filechooser", lambda _: None)  # has the browser hand it over before a key is pressed
    expect(page.locator("#model option")).not_to_have_count(0)

    def tab_to(selector: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("each => document.activeElement.matches(each)", selector):
                return
        raise AssertionError(f"Tab does not reach {selector}")

    tab_to("#target input")
    with page.expect_file_chooser() as choosing:
        page.keyboard.press("Space")
    choosing.value.set_files(
        {"name": "keys.png", "mimeType": "image/png", "buffer": small.read_bytes()}
    )
    tab_to("#model")
    page.keyboard.type("doubling")
    tab_to("#start")
    page.keyboard.press("Enter")
    seen.state("keys.png", "done")
    shown(seen, "after")
    tab_to(".compare input")
    page.keyboard.press("Home")
    assert page.locator(".compare input").input_value() == "0"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(visit: Any, small: Path, scheme: str) -> None:
    seen = visit(color_scheme=scheme)
    enlarge(seen, small, "tiny", f"{scheme}.png")
    shown(seen, "after")
    weak, ground = seen.page.evaluate(CONTRASTS)
    assert weak == []
    assert ground < 0.05 if scheme == "dark" else ground > 0.8
    seen.screenshot(f"all-{scheme}")


def test_what_is_chosen_before_the_service_has_told_its_models_stays(
    visit: Any, people: Path
) -> None:
    seen = visit()
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    seen.page.route("**/api/models", hold)
    with seen.page.expect_request("**/api/models"):
        seen.page.reload()
    seen.drop("#target", people / "pair.png")
    seen.page.get_by_text("Swap faces", exact=True).click()
    seen.page.fill("#budget", "32MiB")
    expect(seen.page.locator("#target .thumb img")).to_have_count(1)
    expect(seen.page.locator("#model option")).to_have_count(0)
    held[0].continue_()
    expect(seen.page.locator("#people li")).to_have_count(2)
    expect(seen.page.locator("#budget")).to_have_value("32MiB")
    expect(seen.page.locator("#wrong")).to_have_text("")


def test_a_phone_shows_all_without_scrolling_sideways(visit: Any, people: Path) -> None:
    seen = visit(
        viewport={"width": 360, "height": 740},
        is_mobile=True,
        has_touch=True,
        device_scale_factor=2,
    )
    seen.drop("#target", people / "pair.png", name=f"{'long' * 30}.png")
    seen.page.get_by_text("Swap faces", exact=True).click()
    expect(seen.page.locator("#people li")).to_have_count(2)
    seen.page.set_input_files("#source input", [people / "blue.png", people / "red.png"])
    expect(seen.page.locator("#sources li")).to_have_count(2)
    seen.page.click("#start")
    shown(seen, "after")
    assert seen.page.evaluate("document.documentElement.scrollWidth") == 360
    assert seen.page.evaluate(OUTSIDE) == []
    seen.screenshot("phone-light")
    seen.page.emulate_media(color_scheme="dark")
    seen.screenshot("phone-dark")


# The service


def test_a_simulated_card_and_no_card_are_told_plainly(visit: Any) -> None:
    seen = visit()
    badge = seen.page.locator("#health")
    expect(badge).to_have_text("No GPU: the card is simulated on the CPU")
    card = {"name": "H200", "simulated": False, "there": False, "memory": 1, "backend": "mapped"}
    lost = json.dumps({"status": "no card", "card": {**card, "why": "it fell off the bus"}})
    seen.page.route("**/health", lambda route: route.fulfill(status=503, body=lost))
    seen.page.reload()
    expect(badge).to_have_text("The card H200 does not answer: it fell off the bus")
    seen.page.close()  # which looks again every few seconds
    assert all("503" in text for text in seen.wrong)
    seen.wrong.clear()


def test_a_token_is_asked_for_once_and_an_end_of_the_service_is_told(
    browser: Any, stocked: Path, small: Path, tmp_path: Path
) -> None:
    asked = settings(stocked, data=tmp_path, token=TOKEN)
    with browsing.server_here(asked) as address:
        seen = Visit(browser.new_page(), address)
        for given in (TOKEN[::-1], TOKEN):
            seen.page.wait_for_function("() => document.querySelector('#token').open")
            seen.page.fill("#token-value", given)
            seen.page.keyboard.press("Enter")
        enlarge(seen, small, "doubling")
        result = shown(seen, "after")
        assert seen.page.get_attribute(".compare .after", "src").startswith("blob:")
        assert digest(downloaded(seen)) == result
        seen.page.reload()
        seen.state("small.png", "done").get_by_role("button", name="Show").click()
        assert shown(seen, "after") == result
        assert {text.partition("status of ")[2][:3] for text in seen.wrong} == {"401"}
    expect(seen.page.locator("#notice")).to_contain_text("does not answer")
    seen.page.context.close()
