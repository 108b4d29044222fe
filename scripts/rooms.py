#!/usr/bin/env python3
"""Fails where rooms of a crate import each other in a circle.

A room is a folder, or a file beside the crate's root; what it imports is what its code calls `crate::…`. Test code counts too, since it
moves with its room. A folder and what lies inside it are one room, seen from outside; inside, its folders must form no circle either.
"""
import re
import sys
from pathlib import Path

IMPORT = re.compile(r"\bcrate::([a-z_0-9]+(?:::[a-z_0-9]+)*)")
COMMENT = re.compile(r"^\s*//.*$", re.MULTILINE)


def imports(root):
    """Pairs of module paths (tuples of names): who imports, what is imported."""
    for file in sorted(root.rglob("*.rs")):
        module = file.relative_to(root).with_suffix("").parts
        if module in (("lib",), ("bench",)):
            continue
        if module[-1] == "mod":
            module = module[:-1]
        text = COMMENT.sub("", file.read_text())
        if "crate::{" in text:
            sys.exit(f"{file}: one line an import, so that this check sees it, instead of crate::{{…}}")
        for path in IMPORT.findall(text):
            yield module, tuple(path.split("::"))


def circles(edges):
    """Groups of nodes that reach each other."""
    reach = {}

    def reached(node):
        seen, todo = set(), [node]
        while todo:
            for target in edges.get(todo.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    todo.append(target)
        return seen

    for node in edges:
        reach[node] = reached(node)
    groups = {tuple(sorted(other for other in reach[node] if node in reach.get(other, ()))) for node in edges}
    return sorted(group for group in groups if len(group) > 1)


def check(root):
    found = False
    pairs = list(imports(root))
    folders = [()] + [folder.relative_to(root).parts for folder in sorted(root.rglob("*")) if folder.is_dir()]
    for folder in folders:
        depth = len(folder)
        edges = {}
        for source, target in pairs:
            if source[:depth] != folder or target[:depth] != folder or len(source) <= depth or len(target) <= depth:
                continue
            a, b = source[depth], target[depth]
            is_room = [not folder or root.joinpath(*folder, name).is_dir() for name in (a, b)]
            if a != b and all(is_room):
                edges.setdefault(a, {}).setdefault(b, []).append("::".join(source) + " → " + "::".join(target))
        for group in circles(edges):
            found = True
            print("circle in", root.joinpath(*folder), "between", ", ".join(group), file=sys.stderr)
            for a in group:
                for b in group:
                    for line in edges.get(a, {}).get(b, [])[:3]:
                        print("   ", line, file=sys.stderr)
    return found


if __name__ == "__main__":
    sys.exit(any([check(Path(root)) for root in sys.argv[1:]]))
