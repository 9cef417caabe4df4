"""The systematic study: a grid of bit widths, methods and models, run cell by cell, and what its numbers say about published findings.

Read ``settings`` (how much), ``grid`` (what is compared, and how rows are made comparable), ``cell`` (what is measured of one cell),
``folder`` and ``run`` (how cells are kept and resumed), ``results`` (means and paired differences) and ``findings`` (statements with rules
written down before any number was seen).
"""
