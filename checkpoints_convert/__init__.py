"""Published PyTorch weights become jaxpure networks: rules, and a file a family."""

from checkpoints_convert.conversion import check, convert, converted_from_hub
from checkpoints_convert.rules import ConversionError

__all__ = ["ConversionError", "check", "convert", "converted_from_hub"]
