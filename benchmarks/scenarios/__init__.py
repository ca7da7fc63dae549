"""The scenarios, one a module.

Each has ``COLUMNS``, what of a row is printed; ``NEEDS_CARD``, if no simulated card will do;
``options``, given the parser's ``add_argument`` and whether there is a card; and ``run``, given the
options and a report for its rows.
"""
