"""The page: whole in itself, hostile names inert, and in a real browser it shows what the document says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from esrm.cli.page import Document, HoldingEntry, Moment, is_page, render

HOSTILE = "</script><img src=x onerror=\"document.title='PWNED'\"><!-- <script>\u2028\u202e@SCRIPT@ &lt; \ud800"


def _moment(revision: int, type: str, device: str | None, summary: str = "", *, refused: bool = False) -> Moment:
    time = f"2026-11-22T07:00:{revision:02}.123456Z"
    return Moment(
        revision=revision, time=time, type=type, device=device, actor="alice", summary=summary, refused=refused
    )


def _holding(space: str, first: int, last: int, device: str, since: int, until: int | None) -> HoldingEntry:
    return {
        "space": space,
        "first": hex(first),
        "last": hex(last),
        "device": device,
        "kind": "virtio",
        "from": since,
        "to": until,
        "allocated_by": since,
    }


def _document(name: str = "net0", title: str = "web-1") -> Document:
    """Two devices share an interrupt; one leaves at revision 5; the last address of the space is held; one refusal."""
    return Document(
        title=title,
        generated="2026-11-22T11:00:00Z",
        platform="x86_64",
        spaces=[
            {"name": "pio", "pools": [["0x0", "0xffff"]]},
            {
                "name": "mmio",
                "pools": [["0xc0001000", "0xeebfffff"], ["0x4000000000", "0xffffffffffffffff"]],
                "reserved": [{"first": "0xfec00000", "last": "0xfec00fff", "owner": name}],
            },
            {"name": "legacy_irq", "pools": [["0x5", "0x17"]]},
        ],
        moments=[
            _moment(0, "VmCreated", None, "platform x86_64"),
            _moment(1, "DeviceCreated", name, name),
            _moment(2, "ResourcesAllocated", name),
            _moment(3, "ResourcesAllocated", "blk0"),
            _moment(4, "AllocationRefused", "gpu0", "gpu0: no 0x4000 of mmio", refused=True),
            _moment(5, "ResourcesReleased", name),
        ],
        holdings=[
            _holding("mmio", 0xC0001000, 0xC0001FFF, name, 2, 5),
            _holding("legacy_irq", 5, 5, name, 2, 5),
            _holding("mmio", 0xFFFFFFFFFFFFF000, 0xFFFFFFFFFFFFFFFF, "blk0", 3, None),
            _holding("legacy_irq", 5, 5, "blk0", 3, None),
        ],
    )


class _Elements(HTMLParser):
    """Every element with its attributes, and the text inside the one of id ``document``."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.data = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][1].get("id") == "document":
            self.data += data

    def having(self, **wanted: str) -> list[dict[str, str | None]]:
        """The attributes of every element that has all of these (``data_x`` means ``data-x``)."""
        names = {name.replace("_", "-"): value for name, value in wanted.items()}
        return [attributes for _, attributes in self.found if names.items() <= attributes.items()]

    def outline(self) -> list[tuple[str, list[str]]]:
        """Which elements with which attributes, whatever the values."""
        return [(tag, sorted(attributes)) for tag, attributes in self.found]


def test_nothing_is_fetched() -> None:
    """No element of the page and no rule of its style names a place outside it, and its policy would forbid any."""
    page = render(_document())
    for tag, attributes in _Elements(page).found:
        assert tag not in {"link", "iframe", "object", "embed", "base", "img"}
        assert not {"src", "srcset", "action", "data"} & set(attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    assert "default-src 'none'" in page
    assert "unsafe" not in page


def test_the_document_comes_back_unchanged() -> None:
    """What was put in is read out of the page: every field, addresses to 2^64, and text of any script."""
    document = _document(name="сеть-0 \u2028 \U0001f5a7 <&>\"'\\", title="ü & <b>")
    assert json.loads(_Elements(render(document)).data) == document


def test_a_hostile_name_adds_no_element() -> None:
    """The page of a hostile document has exactly the elements of a tame one, and can be written as UTF-8."""
    page = render(_document(name=HOSTILE, title=HOSTILE))
    assert _Elements(page).outline() == _Elements(render(_document())).outline()
    data = _Elements(page).data
    assert not set("<>&\u2028\u2029") & set(data)
    assert json.loads(data)["title"] == HOSTILE.replace("\ud800", "?")
    page.encode("utf-8")


def test_the_same_document_gives_the_same_page() -> None:
    """Nothing of the moment or the machine is in the page, so that two exports can be compared."""
    assert render(_document()) == render(_document())


def test_a_page_is_known_by_how_it_begins() -> None:
    """Whatever is in it, so that it may be replaced by the next one; and nobody else's page is taken for ours."""
    page = render(_document(name=HOSTILE, title=HOSTILE)).encode()
    assert is_page(page)
    assert not is_page(page[20:])
    assert not is_page(b"<!doctype html>\n<html lang='en'>\n")


@pytest.mark.parametrize("flaw", [{"title": "x", "n": float("nan")}, {"title": "x", "n": {1}}, {}])
def test_what_json_cannot_say_is_refused(flaw: dict[str, object]) -> None:
    """A document that the page could not read back makes no page."""
    with pytest.raises((ValueError, TypeError, KeyError)):
        render(flaw)


Browse = Callable[..., _Elements]


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    """Open a document's page in a headless browser at a hash, and give the elements that its script left.

    A script of the test's own, which the page's policy is widened for, runs behind the page's; what it puts into
    ``root.dataset`` is an attribute of the first element.
    """
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no chromium on the PATH: the page is not looked at in a real browser")

    def open_page(document: Document, place: str, script: str = "") -> _Elements:
        file = tmp_path / "page.html"
        page = render(document)
        if script:
            page = re.sub('script-src [^"]*', "script-src 'unsafe-inline'", page, count=1)
            page += f"<script>{script}</script>"
        file.write_text(page, encoding="utf-8")
        offline = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
        quiet = f"--disable-component-update --disable-sync --user-data-dir={tmp_path / 'profile'} --dump-dom"
        command = [browser, *offline.split(), *quiet.split(), f"{file.as_uri()}#{place}"]
        run = subprocess.run(command, capture_output=True, timeout=60, check=True)
        return _Elements(run.stdout.decode())

    return open_page


def test_a_browser_shows_the_revision_of_the_link(browse: Browse) -> None:
    """At #rev=4: both holders of the shared line, the address that ends at 2^64-1, and the refusal, marked as one."""
    page = browse(_document(), "rev=4")
    assert page.having(data_state="ready"), "the script ran to its end"
    rows = [row for row in page.having() if "data-since" in row]
    assert [(row["data-device"], row["data-space"], row["data-last"], row["data-since"]) for row in rows] == [
        ("net0", "mmio", "0xc0001fff", "2"),
        ("blk0", "mmio", "0xffffffffffffffff", "3"),
        ("net0", "legacy_irq", "0x5", "2"),
        ("blk0", "legacy_irq", "0x5", "3"),
    ]
    (event,) = page.having(id="event")
    assert (event["data-revision"], event["data-type"], event["class"]) == ("4", "AllocationRefused", "refused")
    assert [section["data-space"] for section in page.having(**{"class": "space card"})] == ["mmio", "legacy_irq"]
    assert len(page.having(aria_current="true", href="#rev=4")) == 1


def test_a_browser_shows_hostile_names_as_text(browse: Browse) -> None:
    """A name full of markup is drawn everywhere a name is, and adds no element; the last revision is the default."""
    page = browse(_document(name=HOSTILE, title=HOSTILE), "find=0xc0001000")
    assert page.having(data_state="ready"), "the script ran to its end"
    assert page.having(id="event", data_revision="5")
    assert not [tag for tag, attributes in page.found if tag == "img" or "onerror" in attributes]
    assert sum(tag == "script" for tag, _ in page.found) == 2


LONG = """
  while (moments.length < 200000) refused.push(moments.push(moments[4]) - 1);
  overview();
  $("spaces").append(...busy.map(([space, ranges]) => section(space, ranges)).map(s => (s.draw(), s.card)));
  root.dataset.drawn = true;
"""


def test_a_browser_draws_a_long_log(browse: Browse) -> None:
    """However many events: nothing that is as long as the log is handed to a function as so many arguments."""
    assert browse(_document(), "", LONG).having(data_state="ready", data_drawn="true")


LIVES = """
  const lives = [], counted = { get hi() { reads++; return this.lo + 3n; } };
  let reads = 0, seed = 7;
  const draw = below => (seed = seed * 16807 % 2147483647) % below;
  for (let i = 0; i < 2000; i++) lives.push(Object.assign(Object.create(counted), { lo: 0n, start: i, end: i + 1 }));
  nest(lives);
  root.dataset.reads = reads;
  const ranges = Array.from({ length: 150 }, () => {
    const lo = draw(6), start = draw(40);
    return { lo: BigInt(lo), hi: BigInt(lo + draw(6)), start, end: start + 1 + draw(8) };
  });
  nest(ranges);
  const same = (g, h) => g.lo == h.lo && g.hi == h.hi;
  const around = (g, h) => g != h && g.lo <= h.lo && h.hi <= g.hi && g.start < h.end && h.start < g.end;
  const inner = g => ranges.filter(h => around(g, h) && !same(g, h));
  const depth = h => ranges.filter(g => around(g, h) && !(same(g, h) && g.lane > h.lane)).length;
  root.dataset.wrong = ranges.filter(h => h.depth != depth(h) || h.inner.length != inner(h).length
    || !inner(h).every(g => h.inner.includes(g)) || ranges.some(g => same(g, h) && around(g, h) && g.lane == h.lane)
  ).length;
"""


def test_a_browser_nests_what_was_held_at_one_time(browse: Browse) -> None:
    """How deep a range lies, and what in it, is what looking at every pair says; a range that was held over and over
    is not compared with all of its earlier lives."""
    (page,) = browse(_document(), "", LIVES).having(data_state="ready")
    assert page["data-wrong"] == "0"
    assert int(page["data-reads"] or "") < 20 * 2000


BIDI = """
  const [, name, address] = document.querySelector("[data-space=mmio] .map g text").children;
  const ends = part => [...part.textContent].flatMap((_, i) => {
    const { x, width } = part.getExtentOfChar(i);
    return [x, x + width];
  });
  root.dataset.apart = Math.max(...ends(name)) <= Math.min(...ends(address));
"""


def test_a_browser_keeps_a_name_beside_its_address(browse: Browse) -> None:
    """Also one that is written from right to left: it ends before the address begins."""
    page = browse(_document(name="\u05e9\u05dc\u05d5\u05dd"), "rev=2", BIDI)
    assert page.having(data_state="ready", data_apart="true")


def test_a_browser_finds_a_device_that_is_called_a_number(browse: Browse) -> None:
    """A number is an address, and may be a name as well."""
    page = browse(_document(name="123"), "rev=4&find=123")
    rows = [row["data-device"] for row in page.having() if "data-since" in row]
    assert rows == ["123", "123"]


def test_a_browser_has_no_picture_without_a_name(browse: Browse) -> None:
    """To who listens to the page, each is called something, or is not there."""
    pictures = [attributes for tag, attributes in browse(_document(), "").found if tag == "svg"]
    assert len(pictures) > 6
    assert all(picture.get("aria-label") or picture.get("aria-hidden") for picture in pictures)
