"""Figures, widgets and the two explorers."""
