"""Predicting, before anything is run, how a model would do in little memory on a card."""

from vramx.forecast.cards import find_card, this_card
from vramx.forecast.models import for_file, for_module
from vramx.forecast.passes import Forecast, Precision
from vramx.forecast.table import CARDS, PlannedCard

__all__ = [
    "CARDS",
    "Forecast",
    "PlannedCard",
    "Precision",
    "find_card",
    "for_file",
    "for_module",
    "this_card",
]
