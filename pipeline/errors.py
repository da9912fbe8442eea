"""The error a user can act on."""


class UserError(Exception):
    """Something the user gave is wrong; the message is one line: what, where, and how to fix it."""
