"""The operations, one file each (or one family a file).

How to add one
--------------
1. A file here that builds an :class:`~refquant.conformance.operation.Operation` as a module constant::

       OPERATION = Operation(
           name="rms_norm.forward",            # permanent; a backend names its functions so
           level="model",                      # formats | codes | scales | methods | model | end_to_end
           doc="y = x / sqrt(mean(x^2) + eps) * weight, ...",   # complete: somebody implements it from this text alone
           inputs=(Part("x", "activations", "float32", "[tokens, features]"), ...),
           outputs=(Part("y", "normalized", "float32", "[tokens, features]"),),
           parameters=(Parameter("eps", "added to the mean of squares"),),
           reference=reference,                # ours: reference(inputs, parameters, *, arithmetic=FAST) -> {"y": ...}
           cases=cases,                        # a generator of Case
       )

2. `cases()` yields :class:`~refquant.conformance.case.Case` objects. Expected values come from `refquant.oracle` (Fractions, brute force),
   from mpmath (`refquant.conformance.extras.precise`), and say ``source="oracle"``; or, where an oracle of that size is out of reach, from
   our function in the ``ORDERED`` arithmetic: ``source="ordered", lane="ordered", twin="<id of a smaller case from the oracle>"``.
   Never from `reference` as it stands. Each case gives all parameters of the operation and all its inputs and outputs, no others; arrays
   that have no entries are fine, absent ones are not.
3. Flags say why a case exists; new ones go into `refquant.conformance.flags.FLAGS` with meaning and bug. Small cases with one reason each
   are worth more than large ones: what fails tells what is wrong.
4. Rules: equal bytes unless `rules` says ``ulp(n)``, ``scaled(bound)`` (of the largest magnitude) or, for codes of the bounded lane,
   ``margin(bound)`` with `margins` for the part. A method that feeds errors back gives the operation a `reanchor` function too, which
   returns a :class:`~refquant.conformance.reanchor.Reanchored`: `gptq.py` shows how. The order of decisions is the part ``order``.
5. A line in the table `refquant.conformance.catalog.OPERATIONS`.
6. Mutants in `refquant/conformance/mutants/`: named wrong implementations, each with the flag that must catch it.
7. ``refquant golden generate --operation NAME``, then ``refquant golden lint`` and ``refquant golden coverage``. Ids are permanent, and a
   value that changes needs an entry in ``golden/CHANGES.md``. All vectors together stay below 8 MB: prefer few numbers, and a
   :class:`~refquant.conformance.streams.Stream` where very many are wanted.
"""
