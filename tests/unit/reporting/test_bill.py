from __future__ import annotations

from pipeline_steps.reporting.bill import Item, bill

ITEMS = [
    Item("unlearn", 4, 600, 3.6e17, 2e9),
    Item("unlearn", 4, 600, 7.2e17, 2e9),
    Item("download_images", 0, 240, 0.0, 5e9),
]


def test_stages_stand_in_pipeline_order_with_their_sums() -> None:
    rows = [line.split() for line in bill(ITEMS, 3_300_000, 100).splitlines()[4:7]]
    assert rows == [
        ["download_images", "1", "-", "-", "5.0"],
        ["unlearn", "2", "3.0", "80.0", "4.0"],
        ["all", "3", "3.0", "80.0", "9.0"],
    ]
    assert "of 3,300,000 pairs, at 100 TFLOP/s" in bill(ITEMS, 3_300_000, 100)


def test_what_is_not_known_is_not_made_up() -> None:
    told = bill([Item("unlearn", 1, 60, None, 1e5), *ITEMS], None, 100)
    assert told.splitlines()[5].split() == ["unlearn", "3", "?", "81.0", "4.0"]
    assert told.splitlines()[6].split()[2] == "?"
    assert "unknown number of pairs" in told
