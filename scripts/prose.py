#!/usr/bin/env python3
"""prose.py [ROOT]: checks the Markdown files of the repository, and prints each fault as file:line.

A sentence has at most 35 words. A relative link points to a file that is there, and to a heading that this file has. README.md and
ARCHITECTURE.md stay short. The site has every page of docs/.
"""
import os
import re
import sys
import unicodedata
from pathlib import Path

MOST_WORDS = 35
MOST_LINES = {"README.md": 150, "ARCHITECTURE.md": 200}
SUMMARY = "docs/SUMMARY.md"
FENCE = re.compile(r" *(?:> *)*(`{3,}|~{3,})")
HEADING = re.compile(r" {0,3}(#{1,6})\s+(.*?)(?:\s+#+)?\s*$")
ITEM = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+")
CODE = re.compile(r"(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.S)
# The text of a link may hold an image or code.
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(<?([^()\s>]+)>?(?:\s+\"[^\"]*\")?\)")
DEFINITION = re.compile(r" {0,3}\[[^\]]+\]:\s*<?(\S+?)>?\s*$")
# Closing quotation marks and brackets belong to the sentence.
SENTENCE_END = re.compile(r"[.!?][)\]\"'’”*_]*(?=\s|$)")


def markdown_files(root):
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name != "target" and not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(".md"))


def outside_fences(text):
    """The lines that are not fenced code, each with its number."""
    fence = None
    for number, line in enumerate(text.splitlines(), 1):
        mark = FENCE.match(line)
        if fence is None and mark:
            fence = mark[1]
        elif fence is None:
            yield number, line
        elif mark and mark[1].startswith(fence) and not line.strip(" >").strip(fence[0]):
            fence = None


def chunks(text):
    """The texts that no sentence leaves (a paragraph, a list item, a table cell, a heading), each with the number of its first line."""
    number, lines, expected = 0, [], 0

    def gathered():
        return [(number, "\n".join(lines))] if lines else []

    for at, line in outside_fences(text):
        line = re.sub(r"^ *(?:> ?)+", "", line)
        # A fence stood between.
        is_apart = at != expected or not line.strip()
        expected = at + 1
        heading = HEADING.match(line)
        is_row = line.lstrip().startswith("|")
        if is_apart or heading or is_row or ITEM.match(line):
            yield from gathered()
            lines = []
        if heading:
            yield at, heading[2]
        elif is_row:
            yield from ((at, cell) for cell in re.split(r"(?<!\\)\|", line))
        elif line.strip() and not DEFINITION.match(line):
            if not lines:
                number = at
            lines.append(ITEM.sub("", line) if not lines else line)
    yield from gathered()


def plain(text):
    """`text` with one word for each inline code, and links' texts alone; with as many lines as before."""
    text = CODE.sub(lambda code: "code" + "\n" * code[2].count("\n"), text)
    while LINK.search(text):
        text = LINK.sub(r"\1", text)
    return text


def sentences(text):
    for number, chunk in chunks(text):
        chunk, start = plain(chunk), 0
        for end in [*(found.end() for found in SENTENCE_END.finditer(chunk)), len(chunk)]:
            sentence = chunk[start:end]
            before = len(sentence) - len(sentence.lstrip())
            yield number + chunk.count("\n", 0, start + before), " ".join(sentence.split())
            start = end


def anchors(text):
    """The anchors of a file's headings, as GitHub makes them."""
    seen, names = {}, set()
    for _, line in outside_fences(text):
        heading = HEADING.match(line)
        if not heading:
            continue
        title = LINK.sub(r"\1", heading[2]).strip().lower()
        # Letters, digits and marks of any script stay.
        name = "".join(c for c in title if c in " -_" or unicodedata.category(c)[0] in "LNM").replace(" ", "-")
        count = seen.get(name, 0)
        seen[name] = count + 1
        names.add(f"{name}-{count}" if count else name)
    return names


def links(text):
    for number, chunk in chunks(text):
        chunk = CODE.sub(lambda code: "code" + "\n" * code[2].count("\n"), chunk)
        for found in LINK.finditer(chunk):
            yield number + chunk.count("\n", 0, found.start()), found[2]
            # An image within a link's text.
            yield from ((number, inner[2]) for inner in LINK.finditer(found[1]))
    for number, line in outside_fences(text):
        definition = DEFINITION.match(line)
        if definition:
            yield number, definition[1]


def broken(root, file, target, texts):
    """What is wrong with a link to `target` in `file`, if anything is."""
    if re.match(r"[a-z][a-z0-9+.-]*:|//", target, re.I):
        return None
    path, _, anchor = target.partition("#")
    if path.startswith("/"):
        return "is not relative"
    place = Path(os.path.normpath(file.parent / path)) if path else file
    if not place.is_relative_to(root) or not place.exists():
        return "points to no file"
    if anchor and place.suffix == ".md" and anchor not in anchors(texts.get(place) or place.read_text()):
        return "points to no heading"
    return None


def faults(root):
    texts = {file: file.read_text() for file in markdown_files(root)}
    for file, text in texts.items():
        name = file.relative_to(root).as_posix()
        for number, sentence in sentences(text):
            words = sum(any(map(str.isalnum, word)) for word in sentence.split())
            if words > MOST_WORDS:
                yield f"{name}:{number}: a sentence of {words} words: {sentence}"
        for number, target in links(text):
            wrong = broken(root, file, target, texts)
            if wrong:
                yield f"{name}:{number}: the link {target} {wrong}"
        most = MOST_LINES.get(name)
        if most and len(text.splitlines()) > most:
            yield f"{name}:{most + 1}: more than {most} lines"
    summary = root / SUMMARY
    if summary in texts:
        listed = {os.path.normpath(summary.parent / target) for _, target in links(texts[summary])}
        for file in texts:
            if file.is_relative_to(summary.parent) and file != summary and str(file) not in listed:
                yield f"{file.relative_to(root).as_posix()}:1: {SUMMARY} does not list this page"


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve()
    found = list(faults(root))
    print(*found, sep="\n", end="\n" if found else "")
    if found:
        sys.exit(f"{len(found)} faults of the documentation")


if __name__ == "__main__":
    main()
