"""The scenarios, one a module.

Each has ``COLUMNS``, what of a row is printed; ``NEEDS_CARD``, if no simulated card will do;
``options``, which is given the parser's ``add_argument`` and whether there is a card; and ``run``,
which is given the options, ``card`` among them, and adds rows to a report.
"""
