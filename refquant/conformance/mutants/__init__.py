"""Named wrong implementations: each is a bug that somebody had, and must be caught by a vector whose flag says so.

They are small wrong NumPy programs with the signature of a backend, not patches of this package: ``run(inputs, parameters)``. A family
shares one program with a `fault` to choose, whose right form (no fault) no vector may complain of; so a mutant is wrong in nothing else.

To add one: a :class:`~refquant.conformance.mutants.mutant.Mutant` in the tuple ``MUTANTS`` of a module here (a new module goes into
``MODULES`` of `refquant.conformance.mutants.catalog`, with its ``RIGHT`` programs by name of operation). `refquant golden coverage` prints
which cases kill it; a test fails if none with its flag does.
"""
