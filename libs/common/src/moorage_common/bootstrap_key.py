"""`python -m moorage_common.bootstrap_key`: the administrator's key that belongs to `MOORAGE_BOOTSTRAP_SEED`.

A Helm template can make random text but not a key's checksum, so a release keeps a seed and the key is completed here.
"""

import os
import sys

from moorage_common import api_keys


def key_of(seed: str) -> str:
    """The full key of `seed`, 44 base62 characters: kid and secret. Raises ValueError when it is no such text."""
    text = api_keys.complete(f"mrg_live_{seed}")
    if api_keys.parse(text) is None:
        message = "the bootstrap seed must be 44 letters and digits"
        raise ValueError(message)
    return text


if __name__ == "__main__":
    sys.stdout.write(key_of(os.environ["MOORAGE_BOOTSTRAP_SEED"]) + "\n")
