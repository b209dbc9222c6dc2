"""The one exception for a user's mistake, which commands print as a sentence without a traceback."""


class UserError(Exception):
    """Bad input: the message names the file, key or option and the remedy, in one clear sentence."""
