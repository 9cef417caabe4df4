"""Many tensors: recipes, calibration, quantizing a whole model, checkpoints, evaluation."""

from importlib.util import find_spec
from pathlib import Path

from refquant.errors import UsageError


def _check_model_package() -> None:
    """``model`` is a common name: a file of the user's beside their script would silently stand in for ours."""
    found = find_spec("model")
    origin = None if found is None else found.origin
    if origin is None or not Path(origin).with_name("transformer.py").is_file():
        raise UsageError(f"the name 'model' leads to {origin}, not to refquant's model package; rename or move that file")


_check_model_package()
