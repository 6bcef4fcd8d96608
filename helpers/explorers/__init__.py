"""The two explorers: what a page of widgets computes and draws. Notebooks X1 and X2 show them without code."""
