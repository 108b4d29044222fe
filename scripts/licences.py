"""The licences of all that is linked into the library, for its packages: names, versions, and the texts, each text once.

    licences.py FEATURE      pg15
"""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
TEXTS = ("licen", "copying", "notice", "unlicense", "copyright")


def linked(feature: str) -> list[dict]:
    """Packages that a build of the library contains: neither what only builds it, nor what only tests it."""
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--no-default-features", f"--features={feature}"]
    host = next(line.split()[1] for line in subprocess.check_output(["rustc", "-vV"], text=True).splitlines() if line.startswith("host"))
    metadata = json.loads(subprocess.check_output([*command, f"--filter-platform={host}"], cwd=ROOT))
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    packages = {package["id"]: package for package in metadata["packages"]}
    root = metadata["resolve"]["root"]
    found, waiting = set(), [root]
    while waiting:
        for dependency in nodes[waiting.pop()]["deps"]:
            is_linked = any(kind["kind"] is None for kind in dependency["dep_kinds"])
            is_macro = any("proc-macro" in target["kind"] for target in packages[dependency["pkg"]]["targets"])
            if is_linked and not is_macro and dependency["pkg"] not in found:
                found.add(dependency["pkg"])
                waiting.append(dependency["pkg"])
    # The core is this project's own.
    return sorted((packages[package] for package in found if packages[package]["source"]), key=lambda package: (package["name"], package["version"]))


def texts(package: dict) -> list[str]:
    folder = pathlib.Path(package["manifest_path"]).parent
    # One folder down are those of C sources.
    files = [file for file in sorted([*folder.glob("*"), *folder.glob("*/*")]) if file.is_file() and file.name.lower().startswith(TEXTS)]
    return [file.read_text(errors="replace").strip() for file in files]


def main() -> None:
    packages = linked(sys.argv[1])
    holders: dict[str, list[str]] = {}
    print("Libraries that are part of s3_export.so, and their licences. The texts follow.\n")
    for package in packages:
        name = f"{package['name']} {package['version']}"
        found = texts(package)
        print(f"{name}: {package['license'] or 'see its text'}{'' if found else ' (without a text of its own: ' + (package['repository'] or '') + ')'}")
        for text in found:
            holders.setdefault(text, []).append(name)
    for text, names in holders.items():
        print(f"\n{'-' * 80}\n{', '.join(names)}\n{'-' * 80}\n\n{text}")


main()
