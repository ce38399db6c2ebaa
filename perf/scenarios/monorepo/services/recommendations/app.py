"""Recommendations: what others bought together with a product."""

from collections import Counter
from itertools import permutations

from flask import Flask, request
from shared import service

app: Flask = service.create("recommendations")
_together: dict[str, Counter[str]] = {}


def learn(basket: list[str]) -> None:
    for one, other in permutations(set(basket), 2):
        _together.setdefault(one, Counter())[other] += 1


@app.post("/baskets")
def add() -> tuple[str, int]:
    learn([str(product) for product in request.get_json()])
    return "", 204


@app.get("/recommendations/<product>")
def recommend(product: str) -> list[str]:
    return [name for name, _ in _together.get(product, Counter()).most_common(3)]


if __name__ == "__main__":
    service.main(app, "/recommendations/tea", lambda: learn(["tea", "cup"]))
