#!/usr/bin/env python3
"""Prepares the texts of the default model. Standard library only.

    python3 recipes/prepare_stories.py shared/data/text recipes/text

writes stories.txt.gz and books.txt.gz, from tinystories-train.txt.gz and children-books-train.txt.gz, and copies
tinystories-valid.txt.gz:

- stories: paragraphs parted by an empty line, as in the published TinyStories (this copy has lost the empty lines);
- books: the lines of a paragraph joined (they are broken at 72 columns), `_emphasis_` without its marks;
- both: typographic quotation marks as the ASCII ones that nearly all stories use.
"""

import gzip
import re
import shutil
import sys
from pathlib import Path

END = "<|endoftext|>"
ASCII = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "\u00a0": " "})


def read(path):
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return file.read().replace("\r\n", "\n").translate(ASCII)


def write(path, documents):
    documents = [document for document in documents if document]
    text = "".join(f"{document}\n{END}\n" for document in documents)
    with open(path, "wb") as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
        packed.write(text.encode("utf-8"))
    print(f"{path}: {len(documents)} documents, {len(text.encode('utf-8'))} bytes")


def documents(text):
    return [part.strip("\n") for part in text.split(END)]


def story(text):
    return "\n\n".join(line for line in text.split("\n") if line.strip())


def book(text):
    paragraphs = (paragraph.strip("\n") for paragraph in re.split(r"\n[ \t]*\n", text))
    # an indented line begins verse or a table, whose lines stay as they are
    joined = (p if re.search(r"^[ \t]", p, re.M) else p.replace("\n", " ") for p in paragraphs if p.strip())
    return re.sub(r"_([^_\n]+)_", r"\1", "\n\n".join(joined))


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, out = map(Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    write(out / "stories.txt.gz", [story(part) for part in documents(read(source / "tinystories-train.txt.gz"))])
    write(out / "books.txt.gz", [book(part) for part in documents(read(source / "children-books-train.txt.gz"))])
    shutil.copyfile(source / "tinystories-valid.txt.gz", out / "tinystories-valid.txt.gz")


if __name__ == "__main__":
    main()
