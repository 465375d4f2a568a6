"""Colours that colour-blind readers tell apart: Okabe & Ito 2008."""

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY = "#E69F00", "#56B4E9"
BLUE_TO_VERMILLION = (BLUE, "#f7f7f7", VERMILLION)
"""From negative over zero to positive."""
