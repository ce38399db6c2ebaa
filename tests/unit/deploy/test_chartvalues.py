"""The table of the chart's values."""

from __future__ import annotations

import chartvalues
import manifests
import pytest

SOME = """\
# Of the whole file.
image:
  # Where from, a | b.
  registry: example
  # Several
  # lines.
  more:
    # Not a value of its own.
    deep: [1]
"""


def test_a_row_for_each_value() -> None:
    assert chartvalues.table(SOME).splitlines()[2:] == [
        r"| `image.registry` | `example` | Where from, a \| b. |",
        '| `image.more` | `{"deep": [1]}` | Several lines. |',
    ]


def test_a_value_without_a_comment_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"values.yaml:2: image.registry has no comment"):
        chartvalues.table("image:\n  registry: example\n")


def test_every_value_of_the_chart_is_explained() -> None:
    found = list(chartvalues.described((manifests.CHART / "values.yaml").read_text()))
    assert len(found) > 80
    assert all(one.text.endswith(".") for one in found)
