"""What only a router meets, beside the error tree of moorage_common."""


class ClientGone(Exception):
    """The caller closed its connection: nobody is left to answer."""
