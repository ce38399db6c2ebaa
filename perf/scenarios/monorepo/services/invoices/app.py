"""Invoices: an order as a page to print."""

from flask import Flask, render_template_string, request
from pydantic import BaseModel
from shared import service

_PAGE = """\
<h1>Invoice {{ order.number }}</h1>
<table>
{%- for line in order.lines %}
<tr><td>{{ line.name }}<td>{{ line.count }}<td>{{ "%.2f"|format(line.cents / 100) }}
{%- endfor %}
</table>
"""


class Line(BaseModel):
    name: str
    count: int
    cents: int


class Order(BaseModel):
    number: int
    lines: list[Line]


app: Flask = service.create("invoices")


@app.post("/invoices")
def invoice() -> str:
    return render_template_string(_PAGE, order=Order.model_validate_json(request.data))


@app.get("/example")
def example() -> str:
    order = Order(number=1, lines=[Line(name="Green tea", count=2, cents=450)])
    return render_template_string(_PAGE, order=order).replace("\n", "")


if __name__ == "__main__":
    service.main(app, "/example")
