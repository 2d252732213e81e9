"""The papers' tables on one data set; see `experiments.tables.__main__`.

    rows.py       what the tables ask: each cell is a run of `experiments.run`
    page.py       the page, with a command for every number

A new row is a line in rows.py.
"""
