"""The site, opened in a headless Chromium: it filters, plots, says which row to take, and holds whatever names come."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import report_store
from chromium import Page, browser, executable
from report_store import spec_of, static_point, write_eval

from bench.commands.facts import facts_at_hand
from bench.core.metrics import METRICS
from bench.core.settings import parse_spec
from bench.core.spec import DataSpec
from bench.core.store import Store
from bench.methods import METHODS
from bench.reports import figures, generate
from bench.reports.facts import Card, Facts
from bench.reports.reported import load_reported
from bench.reports.site import write
from bench.reports.site.tiers import VERIFIED
from bench.statistics.tradeoff import pareto_front, upper_hull

ROOT = Path(__file__).parent.parent
VENDOR = Path(write.__file__).parent / "vendor"
DIGITS = "digits-official-1-test.html"
HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script><!--",
    "a|b \"c\" 'd' `e` & 50 % of_x {y} \\input{z} #1 ~^ $",
    "\u202eright to left \u0634\u0628\u0643\u0629",
    "n" * 300,
    "{{ 7 * 7 }} ${7} %{x} <b>bold</b>",
]
needs_browser = pytest.mark.skipif(executable() is None, reason="no Chromium here; Debian's is enough")


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("write_accuracy_madds", "write_accuracy_latency", "write_routing"):
        monkeypatch.setattr(figures, name, lambda *_: [])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def campaign(tmp_path_factory: pytest.TempPathFactory, no_figures) -> Path:
    """The site of the committed results, with the digits' own images."""
    out = tmp_path_factory.getbasetemp() / "campaign"
    if not out.exists():
        generate(ROOT / "results" / "campaigns" / "digits", out, "slicebench report", facts=facts_at_hand(None))
    return out / "site"


def opened(page: Page, site: Path, name: str = DIGITS, rest: str = "", width: int = 1280, dark: bool = False) -> Page:
    page.look(width, 900, dark)
    page.errors.clear()
    page.requests.clear()
    page.open(f"{(site / name).as_uri()}{rest}")
    if name.endswith("test.html"):
        page.wait("performance.getEntriesByName('table').length")
    return page


def drawn(page: Page) -> None:
    page.wait("document.querySelector('#plot .main-svg') && document.getElementById('plot').data")


def ids(page: Page) -> list[int]:
    return page.evaluate("table.getData('active').map(row => row.id)")


class Text(HTMLParser):
    """The text of a page, its tags, and the links in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.links, self.tags = "", [], []
        self.feed(html)

    @property
    def words(self) -> str:
        """The text with single spaces."""
        return " ".join(self.text.split())

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src") and value]


def test_the_scripts_of_others_are_those_of_the_manifest():
    files = {name: digest for library in write.VENDORED for name, digest in library["files"].items()}
    assert {file.name for file in VENDOR.iterdir()} == {"manifest.json", *files}
    for name, digest in files.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, name
    for library in write.VENDORED:
        assert library["licence"] == "MIT"
        (licence,) = (name for name in library["files"] if "LICENSE" in name)
        assert "Permission is hereby granted, free of charge" in (VENDOR / licence).read_text()


def test_a_changed_script_is_not_shipped(monkeypatch, tmp_path, no_figures):
    library = write.VENDORED[0]
    monkeypatch.setattr(write, "VENDORED", [library | {"files": dict.fromkeys(library["files"], "0" * 64)}])
    with pytest.raises(RuntimeError, match="is not the file of plotly"):
        generate(ROOT / "results" / "campaigns" / "digits", tmp_path, "c")


def test_the_folder_holds_all_that_its_pages_name(campaign: Path):
    pages = sorted(campaign.glob("*.html"))
    assert {page.name for page in pages} == {"index.html", "methods.html", "numbers.html", DIGITS}
    for page in pages:
        for link in Text(page.read_text(encoding="utf-8")).links:
            file = link.partition("#")[0]
            assert link == "data:," or file == "" or (campaign / file).is_file(), f"{page.name}: {link}"
    assert max(file.stat().st_size for file in campaign.rglob("*") if file.is_file()) < 5 * 2**20


def test_only_what_is_reported_of_these_data_is_shown(campaign: Path, tmp_path: Path, no_figures):
    quoted = load_reported(ROOT / "results" / "reported")
    of_cifar10 = sum(row.dataset == "cifar10" for row in quoted)
    assert 0 < of_cifar10 < len(quoted)
    index = Text((campaign / "index.html").read_text(encoding="utf-8"))
    said = f"nothing is reported by others; {len(quoted)} results are of other data: slicebench list reported."
    assert said in index.words
    assert "table" not in index.tags
    generate(ROOT / "results" / "campaigns" / "classic", tmp_path, "c")
    index = Text((tmp_path / "site" / "index.html").read_text(encoding="utf-8"))
    assert f"{len(quoted) - of_cifar10} more are of other data" in index.words
    assert "imagenet" not in index.words


def test_what_is_not_there_is_not_spoken_of(campaign: Path):
    methods = Text((campaign / "methods.html").read_text(encoding="utf-8")).text
    assert "names nothing" not in methods
    assert methods.count("What is ours") < methods.count("In a line")
    numbers = Text((campaign / "numbers.html").read_text(encoding="utf-8")).text
    assert [word for word in ("`", "Rows with *", "CSV", "Front:") if word in numbers] == []
    notes = [METRICS["map50_voc"].note, "Not in this table, because not evaluated: 2 runs (see failures.md)."]
    assert all(".md" in note and ".md" not in write.for_site(note) for note in notes), "files lie beside the site"
    plain = (campaign.parent / "tables" / "leaderboard.md").read_text(encoding="utf-8")
    assert [note for note in write.SITE_NOTES if note.strip() not in plain] == [], "every note that is reworded is one"


def test_without_scripts_every_row_is_in_a_plain_table(campaign: Path):
    noscript = (campaign / DIGITS).read_text(encoding="utf-8").partition("<noscript>\n")[2].partition("</noscript>")[0]
    assert noscript.count("<tr>") == 1 + 33
    assert "[95.67, 98.14]" in noscript


@pytest.fixture
def hostile(tmp_path: Path, no_figures) -> Path:
    """A site whose variants, families and cards say the worst; names of models and points are refused before."""
    store = Store(tmp_path / "results")
    for number, name in enumerate(HOSTILE):
        for seed in range(3):
            spec = replace(spec_of(f"method{number // 2}", seed), model=f"model{number}", options={"note": name})
            points = {point: static_point("uniform", point, seed) for point in ("uniform1", "uniform2")}
            write_eval(store, spec, points)
    card = Card(HOSTILE[0], "static", HOSTILE[1], HOSTILE[2], HOSTILE, HOSTILE, HOSTILE, HOSTILE[1])
    generate(
        store.root,
        tmp_path,
        "slicebench report",
        facts=Facts({f"model{number}": HOSTILE[0] for number in range(len(HOSTILE))}, [card]),
    )
    return tmp_path


def test_hostile_names_are_text_in_the_files(hostile: Path):
    for file in (hostile / "site").glob("*.html"):
        text = file.read_text(encoding="utf-8")
        parsed = Text(text)
        assert "img" not in parsed.tags, file.name
        assert "<script>alert" not in text, file.name
    methods = Text((hostile / "site" / "methods.html").read_text(encoding="utf-8")).text
    assert [name for name in HOSTILE if name.replace("`", "") not in methods] == [], "backticks are code there"
    markdown = (hostile / "tables" / "leaderboard.md").read_text(encoding="utf-8").splitlines()
    rows = [line.replace("\\|", "") for line in markdown if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert len(rows) == 2 + 2 * len(HOSTILE)


@needs_browser
@pytest.mark.slow
def test_hostile_names_are_text_in_the_browser(hostile: Path, page: Page):
    opened(page, hostile / "site")
    drawn(page)
    assert len(ids(page)) == 2 * len(HOSTILE)
    page.evaluate("location.hash = rowLink(rows[3])")
    page.wait("document.querySelector('#row h2')")
    row = page.evaluate("rows[3].method + ', ' + rows[3].label")
    assert page.evaluate("document.querySelector('#row h2').textContent").startswith(row)
    assert page.evaluate("document.images.length + document.querySelectorAll('#row b, #table img').length") == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for number in range(len(HOSTILE)):
        page.evaluate(f"location.hash = 'board?' + new URLSearchParams({{model: 'model{number}'}})")
        page.wait("table.getData('active').length === 2")
    assert page.errors == []


@needs_browser
@pytest.mark.slow
def test_filters_words_and_the_front_of_the_filtered_rows(campaign: Path, page: Page):
    opened(page, campaign)
    drawn(page)
    everything = ids(page)
    assert len(everything) == 33
    select = "document.getElementById('filter-method')"
    page.evaluate(f"{select}.value = 'ds_net'; {select}.dispatchEvent(new Event('change'))")
    page.wait("table.getData('active').length === 6")
    assert "method=ds_net" in page.evaluate("location.hash")
    page.wait("document.getElementById('plot').data.filter(t => t.mode === 'markers').length === 1")
    rows = page.evaluate("rows.filter(r => r.method === 'ds_net').map(r => [r.madds, r.score, r.id])")
    front = np.array(rows)[pareto_front([r[0] for r in rows], [r[1] for r in rows])]
    shown = page.evaluate("document.getElementById('plot').data.find(t => t.meta === 'front').customdata")
    assert set(shown) <= {int(row) for row in front[:, 2]}
    assert {s for _, s, _ in rows if s in front[:, 1]} == set(
        page.evaluate(f"{json.dumps(shown)}.map(id => rows[id].score)")
    ), "of points with equal score and cost one is drawn"
    page.open(page.evaluate("location.href"))  # the address alone holds the filter
    page.wait("performance.getEntriesByName('table').length")
    assert len(ids(page)) == 6
    page.evaluate("document.querySelector('#words button').click()")
    page.wait("table.getData('active').length === 33")
    assert page.errors == []
    assert [url for url in page.requests if not url.startswith((campaign.as_uri(), "data:", "about:"))] == []


@needs_browser
@pytest.mark.slow
def test_the_hull_in_the_plot_is_that_of_the_statistics(campaign: Path, page: Page):
    opened(page, campaign)
    drawn(page)
    fixed = page.evaluate("rows.filter(r => r.fixed).map(r => [r.madds, 100 * r.score])")
    hull = [fixed[k] for k in upper_hull([f[0] for f in fixed], [f[1] for f in fixed])]
    found = "document.getElementById('plot').data.find(t => t.name.startsWith('hull'))"
    assert page.evaluate(f"(t => t.x.map((x, k) => [x, t.y[k]]))({found})") == pytest.approx(np.array(hull))


@needs_browser
@pytest.mark.slow
def test_sort_hover_click_and_back(campaign: Path, page: Page):
    opened(page, campaign)
    drawn(page)
    page.click(*page.middle("document.querySelector('[tabulator-field=score] button')"))
    page.wait("location.hash.includes('sort=score')")
    scores = page.evaluate("table.getData('active').map(row => row.score)")
    assert len(scores) == 33
    first = page.evaluate("table.getRows('active')[0].getData().score")
    assert first == max(page.evaluate("rows.filter(r => !r.control).map(r => r.score)"))
    spot = page.middle("[...document.querySelectorAll('#plot .scatterlayer .points path')].at(-1)")
    page.move(*spot)
    page.wait("document.querySelector('#plot .hoverlayer .hovertext')")
    assert "MAdds, rank" in page.evaluate("document.querySelector('#plot .hoverlayer').textContent")
    page.click(*spot)
    page.wait("location.hash.startsWith('#row')")
    page.wait("!document.getElementById('row').hidden && document.getElementById('board').hidden")
    page.evaluate("history.back()")
    page.wait("!document.getElementById('board').hidden && location.hash.includes('sort=score')")
    assert page.errors == []


def tab_to(page: Page, selector: str, most: int = 120) -> None:
    """Press Tab until an element of that kind has the focus."""
    for _ in range(most):
        page.press("Tab")
        if page.evaluate(f"document.activeElement.matches({json.dumps(selector)})"):
            return
    pytest.fail(f"Tab does not lead to {selector}")


@needs_browser
@pytest.mark.slow
def test_by_keyboard_alone(campaign: Path, page: Page):
    """Tab to a header and sort, tab to a row and open it, and to the link back, the first one after its heading."""
    opened(page, campaign)
    tab_to(page, "[tabulator-field=score] button")
    page.press("Enter")
    page.wait("location.hash.includes('sort=score')")
    tab_to(page, "#table .tabulator-row a")
    page.press("Enter")
    page.wait("location.hash.startsWith('#row') && document.activeElement.tagName === 'H2'")
    tab_to(page, "#row h2 + p a", most=1)
    page.press("Enter")
    page.wait("!document.getElementById('board').hidden")
    assert page.errors == []


@needs_browser
@pytest.mark.slow
def test_a_line_for_every_loss_of_a_training(campaign: Path, page: Page):
    """Also of one whose losses change their names on the way."""
    opened(page, campaign)
    supernet = [[10, {"largest": 2.0, "smallest": 2.5}], [20, {"largest": 1.0}]]
    curves = {"supernet": supernet, "gate0": [[5, {"task": 3.0}]]}
    lines = page.evaluate(f"curvesOf([{{seed: 7, curves: {json.dumps(curves)}}}, {{seed: 8, curves: null}}])")
    assert {line["name"]: (line["x"], line["y"]) for line in lines} == {
        "supernet: largest, seed 7": ([10, 20], [2.0, 1.0]),
        "supernet: smallest, seed 7": ([10], [2.5]),
        "gate0: task, seed 7": ([5], [3.0]),
    }
    page.evaluate("location.hash = rowLink(rows[0])")
    page.wait("document.querySelector('#row h2')")
    assert "recorded no losses" in page.evaluate("document.getElementById('row').textContent")


@needs_browser
@pytest.mark.slow
def test_a_row_says_how_it_is_reproduced(campaign: Path, page: Page):
    opened(page, campaign)
    for method in ("ds_net", "random_gate", "us_net"):
        page.evaluate(f"location.hash = rowLink(rows.find(r => r.method === '{method}'))")
        page.wait(
            f"document.querySelector('#row h2')?.textContent.startsWith('{method}') && document.getElementById('specs')"
        )
        specs = [parse_spec(raw) for raw in json.loads(page.evaluate("document.getElementById('specs').textContent"))]
        runs = page.evaluate(
            "data.configs[new URLSearchParams(location.hash.split('?')[1]).get('config')].runs.map(r => r.id)"
        )
        assert set(runs) <= {spec.run_id for spec in specs}
        assert {spec.init_from for spec in specs} - {None} <= {spec.run_id for spec in specs}
        links = page.evaluate("[...document.querySelectorAll('#row table a')].map(a => a.getAttribute('href'))")
        assert len(links) == 15
        assert all((campaign / link).resolve().is_file() for link in links)


def typed(page: Page, name: str, value: str) -> None:
    field = f"document.getElementById({json.dumps(name)})"
    page.evaluate(f"{field}.value = {json.dumps(value)}; {field}.dispatchEvent(new Event('input', {{bubbles: true}}))")


def picked(page: Page) -> str:
    return page.evaluate("document.getElementById('picked').textContent")


@needs_browser
@pytest.mark.slow
def test_which_one_to_take(campaign: Path, page: Page):
    opened(page, campaign, rest="#pick")
    page.wait("document.getElementById('pick-most')")
    costs = page.evaluate("rows.filter(r => !r.control).map(r => r.madds)")
    assert page.evaluate("document.getElementById('pick-cost').value") == "kmadds", "these networks are small"
    assert min(costs) <= 1000 * float(page.evaluate("document.getElementById('pick-most').value")) <= max(costs)
    assert "Controls, which look at no image, are left out." in picked(page)
    typed(page, "pick-most", "50")
    rows = page.evaluate("rows.filter(r => !r.control && r.madds <= 50000).map(r => r.score)")
    said = picked(page)
    assert f"Best of {len(rows)}: " in said
    assert f"with {100 * max(rows):.2f} % and " in said
    assert f"The data do not tell it apart from {len(rows) - 1} others" in said, (
        "three seeds on digits tell nothing apart"
    )
    assert page.evaluate("location.hash") == "#pick?cost=kmadds&most=50"
    opened(page, campaign, rest="#pick?cost=madds&most=0.05")  # the address alone holds the budget
    page.wait("document.getElementById('picked').children.length")
    assert f"Best of {len(rows)}: " in picked(page)
    typed(page, "pick-most", "0.001")
    assert "No row fits. The cheapest is " in picked(page)
    assert f"with {min(costs):,} MAdds per image." in picked(page)
    assert page.errors == []


@needs_browser
@pytest.mark.slow
def test_the_best_that_is_also_the_cheapest(campaign: Path, page: Page):
    """Where nothing of the tied rows is cheaper, the best is not named as cheaper than itself."""
    opened(page, campaign, rest="#pick")
    page.wait("document.getElementById('pick-most')")
    page.evaluate("candidates.sort((a, b) => b.score - a.score)[0].madds = 1000; openPick(address()[1])")
    assert "; it is also the cheapest of all these." in picked(page)
    assert "the cheapest of all these is " not in picked(page)


@pytest.fixture
def two_seeds(tmp_path: Path, no_figures, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site of a method of the user's own on data of his own, two seeds, at MAdds with nine digits."""
    monkeypatch.setattr(report_store, "STORED", 148_048_384)
    store = Store(tmp_path / "results")
    for seed in range(2):
        spec = replace(spec_of("mine", seed), data=DataSpec("photographs", folder="mine"))
        points = {name: static_point("uniform", name, seed) for name in ("uniform1", "uniform2")}
        points = {name: p | {"madds": np.full_like(p["madds"], 148_048_384)} for name, p in points.items()}
        write_eval(store, spec, points)
        write_eval(store, spec_of("uniform", seed), {"uniform1": static_point("uniform", "uniform1", seed)})
    facts = Facts(needs_plugin=lambda spec: spec.method == "mine", is_suites=lambda method: method != "mine")
    generate(store.root, tmp_path, "c", facts=facts)
    return tmp_path / "site"


PHOTOGRAPHS = "photographs-official-1-test.html"


def test_whole_numbers_stand_there_as_in_the_tables(two_seeds: Path):
    assert {row["madds"] for row in payload(two_seeds / PHOTOGRAPHS)} == {148_048_384}
    assert "148,048,384" in (two_seeds.parent / "tables" / "leaderboard.md").read_text()


def test_what_is_not_the_suites_is_not_called_reproduced(two_seeds: Path):
    assert {row["tiers"][0][0] for row in payload(two_seeds / PHOTOGRAPHS)} == {"trained here"}
    assert {row["tiers"][0][0] for row in payload(two_seeds / DIGITS)} == {"reproduced"}


def test_what_needs_a_file_of_the_users(monkeypatch: pytest.MonkeyPatch):
    facts = facts_at_hand(None)
    spec = replace(spec_of("us_net", 0), model="us_mobilenet_micro8")
    assert not facts.needs_plugin(spec)
    assert not facts.needs_plugin(replace(spec, model="timm:resnet18"))
    for change in ({"method": "mine"}, {"model": "mine"}, {"data": DataSpec("mine")}):
        assert facts.needs_plugin(replace(spec, **change)), change
    monkeypatch.setitem(METHODS._entries, "mine", object)  # as where the report itself was given the file
    assert facts.needs_plugin(replace(spec, method="mine"))
    assert (facts.is_suites("us_net"), facts.is_suites("mine")) == (True, False)


@needs_browser
@pytest.mark.slow
def test_the_command_names_what_the_specs_need(two_seeds: Path, page: Page):
    for name, options in ((DIGITS, ""), (PHOTOGRAPHS, " --data DIR --plugin FILE")):
        opened(page, two_seeds, name)
        page.evaluate("location.hash = rowLink(rows[0])")
        page.wait("document.getElementById('again')")
        command = page.evaluate("document.getElementById('again').textContent")
        assert command == f"slicebench run specs.json{options} --results again"


@needs_browser
@pytest.mark.slow
def test_with_two_seeds_nothing_is_said_of_ties(two_seeds: Path, page: Page):
    opened(page, two_seeds, PHOTOGRAPHS, "#pick")
    page.wait("document.querySelector('#picked table')")
    assert page.evaluate("document.getElementById('pick-cost').value") == "madds"
    assert "It has fewer than three seeds, so nothing is said of ties." in picked(page)
    said = page.evaluate("[...document.querySelectorAll('#picked tbody tr')].map(r => r.lastChild.textContent)")
    assert said == ["best", ""]


@needs_browser
@pytest.mark.slow
def test_a_narrow_range_has_ticks_too(campaign: Path, page: Page):
    """From 42 to 48 thousand MAdds there is no 1, 2 or 5 of a decade."""
    opened(page, campaign)
    for low, high, least in ((42_000, 48_000, 3), (1, 1e9, 8)):
        page.evaluate(f"rows.forEach(r => r.madds = {low}); rows.at(-1).madds = {high}; drawPlot()")
        page.wait(f"document.getElementById('plot').data?.some(t => t.x.includes({high}))")
        page.wait("document.querySelectorAll('#plot .xtick text').length")
        shown = page.evaluate(
            "[...document.querySelectorAll('#plot .xtick text')].map(t => t.textContent).filter(Boolean)"
        )
        assert len(shown) >= least, shown
    assert page.errors == []


@needs_browser
@pytest.mark.slow
def test_a_short_table_is_not_high(campaign: Path, page: Page):
    opened(page, campaign)
    height = "document.getElementById('table').offsetHeight"
    assert page.evaluate(height) == 32 * 16
    page.evaluate("change((s) => s.set('method', 'pruning'))")
    page.wait(f"table.getData('active').length < 8 && {height} < 20 * 16")


@needs_browser
@pytest.mark.slow
def test_a_row_says_plainly_what_holds_of_it(campaign: Path, page: Page):
    opened(page, campaign)

    def said(method: str) -> str:
        page.evaluate(f"location.hash = rowLink(rows.find(r => r.method === '{method}'))")
        page.wait(f"document.querySelector('#row h2')?.textContent.startsWith('{method}')")
        return page.evaluate("document.getElementById('row').textContent")

    static, control = said("us_net"), said("random_gate")
    assert "In each seed the network was run and its multiply-adds counted, operator by operator" in static
    assert "Multiply-adds per image25,264Parameters" in static
    assert page.evaluate("[...document.querySelectorAll('#row h3')].map(h => h.textContent)") == [
        "Reproduce it",
        "Runs",
    ]
    assert "parent.method=" in control
    for default in ("parent.threads", "parent.device", "parent.train.optimizer", "parent.data.protocol"):
        assert default not in control
    heads = page.evaluate("[...document.querySelectorAll('#row th')].map(h => h.textContent)")
    assert heads.count("top-1") == 1
    assert page.evaluate("[ms(1.23456), ms(12345.6), count(0.5), count(1.5)]") == ["1.23", "12,300", "0", "2"]


@needs_browser
@pytest.mark.slow
def test_verdicts_are_said_to_be_corrected_and_are_not_cut_off(campaign: Path, page: Page):
    opened(page, campaign, rest="#gates")
    page.wait("document.querySelector('#gate-images li')")
    assert "points [1.18, 4.18], no difference shown after Holm's correction over all rows." in page.evaluate(
        "document.getElementById('gate-images').textContent"
    )
    assert "sub-network 0" in page.evaluate("document.getElementById('gate-images').textContent")
    assert page.evaluate("document.querySelector('#gate-images li').textContent") == "class 1: 25,920 MAdds"
    edges = page.evaluate(
        "[...document.querySelectorAll('#gates th')].filter(h => h.textContent === 'verdict')"
        ".map(h => h.getBoundingClientRect().right)"
    )
    assert len(edges) == 3
    assert max(edges) <= 1280


@needs_browser
@pytest.mark.slow
def test_gates_show_images_of_the_users_own_data(campaign: Path, page: Page):
    opened(page, campaign, rest="#gates")
    page.wait(
        "document.querySelector('#gate-plot .main-svg') && document.querySelectorAll('#gate-images img').length === 16"
    )
    page.wait("[...document.querySelectorAll('#gate-images img')].every(i => i.complete && i.naturalWidth === 8)")
    assert page.errors == []


def test_without_the_data_a_sentence_stands_in_their_place(tmp_path: Path, no_figures):
    generate(ROOT / "results" / "campaigns" / "digits", tmp_path, "c")
    text = (tmp_path / "site" / DIGITS).read_text(encoding="utf-8")
    assert "data:image" not in text
    assert "The images were not looked for" in text


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_view_fits_and_complains_of_nothing(campaign: Path, page: Page, dark: bool, width: int):
    for name, rest in [("index.html", ""), ("methods.html", ""), ("numbers.html", "")] + [
        (DIGITS, f"#{view}") for view in ("board", "pick", "gates", "tables", "row?config=none&point=none")
    ]:
        opened(page, campaign, name, rest, width, dark)
        background = "rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)"
        page.wait(f"getComputedStyle(document.documentElement).backgroundColor === '{background}'")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name}{rest}"
        assert page.errors == [], f"{name}{rest}"


@needs_browser
@pytest.mark.slow
def test_it_is_read_without_scripts(campaign: Path, page: Page):
    page.look(scripts=False)
    page.call("Page.navigate", url=(campaign / DIGITS).as_uri())
    time.sleep(1)
    page.call("Emulation.setScriptExecutionDisabled", value=False)
    assert page.evaluate("document.querySelectorAll('noscript table tbody tr').length") == 33
    assert page.evaluate("getComputedStyle(document.getElementById('filters')).display") == "none"
    page.call("Page.navigate", url="about:blank")


def test_tiers_say_what_was_checked_and_when(tmp_path: Path, no_figures):
    root = Path(shutil.copytree(ROOT / "results" / "campaigns" / "digits", tmp_path / "results"))
    runs = sorted(path.name for path in (root / "runs").glob("us_net-*"))
    bodies = {run: json.loads((root / "runs" / run / "eval.json").read_text()) for run in runs}
    said = {run: {"tier": "verified", "digest": body["digest"]} for run, body in bodies.items()}
    (root / VERIFIED).write_text(json.dumps({"verify_version": 1, "date": "2026-11-30", "runs": said}))
    generate(root, root, "c")
    data = payload(root / "site" / DIGITS)
    tiers = {row["method"]: row["tiers"] for row in data}
    assert tiers["us_net"] == [["reproduced", ""], ["verified", "2026-11-30"]]
    assert tiers["ds_net"] == [["reproduced", ""], ["consistent", ""]]
    said[runs[0]]["digest"] = "another"
    (root / VERIFIED).write_text(json.dumps({"verify_version": 1, "date": "2026-11-30", "runs": said}))
    generate(root, root, "c")
    assert {row["method"]: row["tiers"] for row in payload(root / "site" / DIGITS)}["us_net"][1][0] == "consistent"


def payload(page: Path) -> list[dict]:
    text = page.read_text(encoding="utf-8").partition('id="data">')[2].partition("</script>")[0]
    data = json.loads(text)
    return [dict(zip(data["columns"], row, strict=True)) for row in data["rows"]]


@pytest.fixture
def many(tmp_path: Path, no_figures) -> Path:
    """A site of 5,000 rows."""
    store = Store(tmp_path)
    point = static_point("uniform", "uniform1", 0)
    for number in range(250):
        points = {f"p{k}": point | {"madds": point["madds"] + 1000 * number + k} for k in range(20)}
        write_eval(store, spec_of(f"method{number % 12}", 0, k=number), points)
    generate(tmp_path, tmp_path, "slicebench report --no-ranks", ranks=False)
    return tmp_path / "site"


@needs_browser
@pytest.mark.slow
@pytest.mark.alone
def test_five_thousand_rows(many: Path, page: Page):
    """First paint under 1 s; from a filter to the table that it leaves under 100 ms, by the page's own clock."""
    assert (many / DIGITS).stat().st_size < 5 * 2**20
    paints, waited = [], []
    for _ in range(5):
        opened(page, many)
        paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        drawn(page)
        waited.append(page.evaluate(FILTER))
        assert len(ids(page)) == 20 * 21
    print(f"5,000 rows, ms: first paint {paints}, filter {waited}")
    assert min(paints) < 1000
    assert min(waited) < 100
    assert page.errors == []


FILTER = """new Promise(done => {
  const select = document.getElementById("filter-method"), begin = performance.now();
  table.on("renderComplete", () => requestAnimationFrame(() => done(performance.now() - begin)));
  select.value = "method3";
  select.dispatchEvent(new Event("change"));
})"""


AXE = os.environ.get("SLICEBENCH_AXE")


@needs_browser
@pytest.mark.slow
@pytest.mark.skipif(AXE is None, reason="SLICEBENCH_AXE names no axe.min.js (npm pack axe-core)")
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_no_serious_fault(campaign: Path, page: Page, dark: bool):
    assert AXE is not None
    for name, rest in [("index.html", ""), ("methods.html", ""), ("numbers.html", "")] + [
        (DIGITS, f"#{view}") for view in ("board", "pick", "gates", "tables")
    ]:
        opened(page, campaign, name, rest, dark=dark)
        time.sleep(1)
        page.evaluate(Path(AXE).read_text(encoding="utf-8") + "; 1")
        faults = "r.violations.map(v => [v.impact, v.id, v.nodes.slice(0, 3).map(n => n.html)])"
        found = page.evaluate(f"axe.run().then(r => {faults})")
        print(name, rest, found)
        assert [one for one in found if one[0] in ("serious", "critical")] == [], f"{name}{rest}"
