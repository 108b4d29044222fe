#!/usr/bin/env python3
"""site.py prepare FOLDER: makes mdBook's source folder from the Markdown files of the repository, at the paths that they have there.
site.py check SITE: checks that each link of the built site has its target, and that Chromium finds the answers to a newcomer's
questions by the site's search, on a phone and on a desktop. docs.sh calls both.
"""
import http.server
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import prose

ROOT = Path(__file__).resolve().parent.parent
SUMMARY = ROOT / prose.SUMMARY
# What a reader types into the search, and the pages of which one must be among the first results.
QUESTIONS = {
    "which IAM rights": ["integrations"],
    "how much memory": ["memory-and-speed"],
    "why 53400": ["errors"],
    "rotate a key": ["secrets"],
    "upgrade": ["upgrade"],
    "restore a dump": ["upgrade", "secrets"],
    "nightly export": ["nightly"],
    "read it in Athena": ["readers"],
    "what a rollback deletes": ["guarantees"],
    "MinIO with its own certificate": ["stores"],
    "does it work on RDS": ["compatibility"],
    "how fast is it": ["memory-and-speed"],
    "meaning of an error": ["errors"],
}
FIRST_RESULTS = 5
WIDTHS = {"phone": 390, "desktop": 1280}
SECONDS = 180


def for_site(file, text, copied):
    """`text` of `file` as the site has it: a link to a folder, or to the contents, which the site shows beside each page, is its text
    alone. Links to files that are no pages are added to `copied`."""

    def replaced(link):
        path = link[2].partition("#")[0]
        place = Path(os.path.normpath(file.parent / path))
        if re.match(r"[a-z][a-z0-9+.-]*:", link[2], re.I) or not path:
            return link[0]
        if place.is_dir() or place == SUMMARY:
            return link[1]
        if place.suffix == ".md":
            return link[0]
        copied.add(place)
        return link[0]

    lines = dict(prose.outside_fences(text))
    return "".join(
        prose.LINK.sub(replaced, line) if number in lines else line for number, line in enumerate(text.splitlines(True), 1)
    )


def prepare(folder):
    shutil.rmtree(folder, ignore_errors=True)
    source, copied = folder / "src", set()
    for file in prose.markdown_files(ROOT):
        place = source / file.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(for_site(file, file.read_text(), copied))
    for file in copied:
        place = source / file.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)

    def from_root(link):
        return f"[{link[1]}]({os.path.normpath(SUMMARY.parent.relative_to(ROOT) / link[2])})"

    (source / "SUMMARY.md").write_text(prose.LINK.sub(from_root, SUMMARY.read_text()))
    shutil.copyfile(SUMMARY.parent / "book.toml", folder / "book.toml")


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [attributes[name] for name in ("href", "src") if attributes.get(name)]
        self.ids.add(attributes.get("id"))


def broken_links(site):
    # Neither has links of its own: one is all pages in one file, and the other may be shown at any address.
    pages = {file: Page(file.read_text()) for file in site.rglob("*.html") if file.name not in ("print.html", "404.html", "toc.html")}
    for file, page in sorted(pages.items()):
        for link in page.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            place = Path(os.path.normpath(file.parent / urllib.parse.unquote(parts.path))) if parts.path else file
            if not place.is_file():
                yield f"{file.relative_to(site)}: {link} has no file"
            elif parts.fragment and place in pages and urllib.parse.unquote(parts.fragment) not in pages[place].ids:
                yield f"{file.relative_to(site)}: {link} has no anchor"


HARNESS = """<!doctype html><meta charset="utf-8"><iframe id="frame" style="border: 0; height: 800px"></iframe><script>
const frame = document.getElementById("frame"), sleep = time => new Promise(done => setTimeout(done, time));
async function load(width, url) {
    frame.style.width = width + "px";
    const loaded = new Promise(done => frame.onload = done);
    frame.src = url;
    await loaded;
    return frame.contentDocument;
}
async function ask(width, question) {
    const page = await load(width, "/index.html?search=" + encodeURIComponent(question));
    for (let i = 0; i < 200; i++) {
        const links = [...page.querySelectorAll("#mdbook-searchresults li > a")];
        if (links.length > 0) {
            const box = links[0].getBoundingClientRect();
            return {visible: box.width > 0 && box.left >= 0 && box.right <= width, results: links.map(link => link.href)};
        }
        await sleep(50);
    }
    return {visible: false, results: []};
}
async function main() {
    const answers = [], wide = [];
    for (const width of WIDTHS) {
        for (const question of QUESTIONS) answers.push({width, question, ...await ask(width, question)});
        for (const url of PAGES) {
            const page = (await load(width, url)).documentElement;
            if (page.scrollWidth > width) wide.push({width, url, is: page.scrollWidth});
        }
    }
    return {answers, wide};
}
main().catch(error => ({error: String(error)})).then(report => fetch("/report", {method: "POST", body: JSON.stringify(report)}));
</script>"""


def browse(site):
    """What Chromium finds at each question, and which pages are wider than the window."""
    reports = queue.Queue()
    # print.html is all pages in one file.
    pages = sorted(f"/{file.relative_to(site)}" for file in site.rglob("*.html") if file.name not in ("print.html", "toc.html"))
    harness = HARNESS
    for name, value in (("WIDTHS", [*WIDTHS.values()]), ("QUESTIONS", [*QUESTIONS]), ("PAGES", pages)):
        harness = re.sub(rf"\b{name}\b", lambda _, value=value: json.dumps(value), harness)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=site)

        def log_message(self, *_):
            pass

        def answer(self, body):
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            if self.path == "/harness":
                self.answer(harness.encode())
            else:
                super().do_GET()

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            self.answer(b"")
            reports.put(json.loads(body))

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, tempfile.TemporaryFile() as said:
        chromium = subprocess.Popen(
            ["chromium", "--headless", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1400,900", f"--user-data-dir={profile}",
             # Chromium refuses root otherwise; the pages are ours.
             *(["--no-sandbox"] if os.geteuid() == 0 else []),
             "--remote-debugging-port=0", f"http://127.0.0.1:{server.server_port}/harness"],
            stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=os.environ | {"HOME": profile},
        )
        try:
            report = reports.get(timeout=SECONDS)
        except queue.Empty:
            said.seek(0)
            sys.exit(f"Chromium reported nothing within {SECONDS} s:\n{said.read().decode(errors='replace')}")
        finally:
            chromium.kill()
            chromium.wait()
            server.shutdown()
    if "error" in report:
        sys.exit(f"Chromium: {report['error']}")
    return report


def page_of(url):
    return urllib.parse.urlsplit(url).path.removeprefix("/docs/").removesuffix(".html")


def check(site):
    faults = [*broken_links(site)]
    report = browse(site)
    names = {width: name for name, width in WIDTHS.items()}
    for answer in report["answers"]:
        pages, name = QUESTIONS[answer["question"]], names[answer["width"]]
        ranks = [rank for rank, url in enumerate(answer["results"], 1) if page_of(url) in pages]
        found = answer["results"][ranks[0] - 1] if ranks else ""
        print(f"{name:8}{answer['question']:32}{ranks[0] if ranks else '-':>3}  {found.partition('/docs/')[2].partition('?')[0]}"
              f"{'#' + urllib.parse.urlsplit(found).fragment if '#' in found else ''}")
        if not ranks or ranks[0] > FIRST_RESULTS:
            first = [page_of(url) for url in answer["results"][:FIRST_RESULTS]]
            faults.append(f"{name}: {answer['question']!r} finds {first}, not {pages}")
        if not answer["visible"]:
            faults.append(f"{name}: the results for {answer['question']!r} are not in the window")
    faults += [f"{names[wide['width']]}: {wide['url']} is {wide['is']} pixels wide" for wide in report["wide"]]
    print(*faults, sep="\n", end="\n" if faults else "")
    if faults:
        sys.exit(f"{len(faults)} faults of the site")


if __name__ == "__main__":
    {"prepare": prepare, "check": check}[sys.argv[1]](Path(sys.argv[2]).resolve())
