#!/usr/bin/env python3
"""What is in the program: a CycloneDX 1.5 list of all crates that `cargo build -p bitnet-cli` links, from Cargo.lock.

    python3 scripts/sbom.py OUT.cdx.json [--target TARGET]
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def linked(metadata):
    """Ids of the program's crate and of everything it needs, but for what only tests and build scripts need."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = next(package["id"] for package in metadata["packages"] if package["name"] == "bitnet-cli")
    seen, todo = set(), [root]
    while todo:
        identity = todo.pop()
        if identity in seen:
            continue
        seen.add(identity)
        for dependency in nodes[identity]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                todo.append(dependency["pkg"])
    return root, seen, nodes


def sbom(metadata):
    root, seen, nodes = linked(metadata)
    packages = {package["id"]: package for package in metadata["packages"]}

    def component(identity):
        package = packages[identity]
        entry = {"type": "library", "bom-ref": purl(package), "name": package["name"], "version": package["version"], "purl": purl(package)}
        if package["license"]:
            entry["licenses"] = [{"expression": package["license"].replace("/", " OR ").replace("  ", " ")}]
        return entry

    order = sorted(seen - {root}, key=lambda identity: purl(packages[identity]))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {**component(root), "type": "application", "name": "bitnet"}},
        "components": [component(identity) for identity in order],
        "dependencies": [
            {
                "ref": purl(packages[identity]),
                "dependsOn": sorted({purl(packages[d["pkg"]]) for d in nodes[identity]["deps"] if d["pkg"] in seen}),
            }
            for identity in [root, *order]
        ],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--target", help="only what is linked for this target")
    args = parser.parse_args()
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    command += ["--filter-platform", args.target] if args.target else []
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        return done.returncode
    args.output.write_text(json.dumps(sbom(json.loads(done.stdout)), indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
