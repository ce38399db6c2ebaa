"""Reports: what was sold, by product."""

from collections import Counter

from flask import Flask, request
from pydantic import BaseModel, PositiveInt
from shared import service


class Sale(BaseModel):
    product: str
    count: PositiveInt


app: Flask = service.create("reports")
_sold: Counter[str] = Counter()


@app.post("/sales")
def add() -> tuple[str, int]:
    sale = Sale.model_validate_json(request.data)
    _sold[sale.product] += sale.count
    return "", 204


@app.get("/sales")
def show() -> dict[str, int]:
    return dict(_sold.most_common())


if __name__ == "__main__":
    service.main(app, "/sales", lambda: _sold.update(tea=3))
