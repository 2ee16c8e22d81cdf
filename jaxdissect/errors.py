"""The one exception for a user's mistake; the command line prints it as a paragraph and exits with 2."""


class InputError(ValueError):
    """A file, option or argument breaks a rule.

    The message names the file or option, the rule, the value found and what to do.
    """
