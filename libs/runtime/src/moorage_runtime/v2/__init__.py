"""The Open Inference Protocol V2 with its binary tensor extension: one codec for hosts, validation, router and clients.

In memory a tensor is a little-endian numpy array; BYTES is an object array of `bytes`, BF16 a float32 one.
"""

from moorage_runtime.v2.codec import (
    check_forms,
    decode_json_tensors,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
    recode_request,
)
from moorage_runtime.v2.datatypes import DTYPES, Array, canonical, datatype_of, texts
from moorage_runtime.v2.messages import HEADER_LENGTH, Encoded, InferRequest, InferResponse

__all__ = [
    "DTYPES",
    "HEADER_LENGTH",
    "Array",
    "Encoded",
    "InferRequest",
    "InferResponse",
    "canonical",
    "check_forms",
    "datatype_of",
    "decode_json_tensors",
    "decode_request",
    "decode_response",
    "encode_request",
    "encode_response",
    "recode_request",
    "texts",
]
