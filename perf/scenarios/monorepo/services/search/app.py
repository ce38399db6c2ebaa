"""Search: products by the beginnings of their words."""

from collections import defaultdict

from flask import Flask, request
from shared import service

app: Flask = service.create("search")
_index: defaultdict[str, set[str]] = defaultdict(set)


def add(product: str, name: str) -> None:
    for word in name.lower().split():
        for end in range(1, len(word) + 1):
            _index[word[:end]].add(product)


@app.post("/index")
def index() -> tuple[str, int]:
    for product in service.ask(service.Settings(), "catalog/products"):
        add(product["id"], product["name"])
    return "", 204


@app.get("/search")
def search() -> list[str]:
    words = request.args.get("q", "").lower().split()
    found = [_index.get(word, set()) for word in words]
    return sorted(set.intersection(*found)) if found else []


if __name__ == "__main__":
    service.main(app, "/search?q=gr+te", lambda: add("tea", "Green tea"))
