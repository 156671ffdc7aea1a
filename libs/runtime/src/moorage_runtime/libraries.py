"""Which versions of the libraries that shape a model's answers are installed. Imports none of them."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

FORMAT_LIBRARIES: dict[str, tuple[str, ...]] = {
    "onnx": ("onnxruntime", "numpy"),
    "skops": ("scikit-learn", "skops", "numpy", "scipy"),
    "xgboost": ("xgboost", "numpy"),
    "lightgbm": ("lightgbm", "numpy"),
    "ray-serve": ("ray", "numpy"),
}


def libraries(model_format: str) -> dict[str, str]:
    """Distribution name -> installed version, for what answers models of that format."""
    found = {}
    for name in FORMAT_LIBRARIES.get(model_format, ()):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def differing(recorded: Mapping[str, str], here: Mapping[str, str]) -> str:
    """`scikit-learn 1.7.0 there, 1.9.1 here; ...` for libraries in both that differ; empty when none does."""
    return "; ".join(
        f"{name} {recorded[name]} there, {here[name]} here"
        for name in here
        if name in recorded and recorded[name] != here[name]
    )
