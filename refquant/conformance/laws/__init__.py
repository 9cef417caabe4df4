"""Laws of quantizers, weight methods, rewrites, statistics and packings, run against anybody's function; see docs/property_testing.md.

Importing this package needs nothing but NumPy; the checks need hypothesis, the ``testing`` extra.
"""

from refquant.conformance.laws.catalog import LAWS, find_law
from refquant.conformance.laws.checking import check_packing, check_quantizer, check_rewrite, check_statistics, check_weight_method
from refquant.conformance.laws.law import BrokenLawError, Law
from refquant.conformance.laws.records import LawRecord, LawReport
from refquant.conformance.laws.reproduction import replay
from refquant.conformance.laws.traits import Traits

__all__ = [
    "LAWS",
    "BrokenLawError",
    "Law",
    "LawRecord",
    "LawReport",
    "Traits",
    "check_packing",
    "check_quantizer",
    "check_rewrite",
    "check_statistics",
    "check_weight_method",
    "find_law",
    "replay",
]
