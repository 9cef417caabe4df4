"""Golden vectors, what they promise, and how anybody's backend is held against them.

Read in this order: `case` (one vector), `rules` and `flags` (how it is compared, why it exists), `operation` (what a backend is asked to
do), `operations` (how to add one), `compare`, `generate`, `lint`, `mutants`.
"""
