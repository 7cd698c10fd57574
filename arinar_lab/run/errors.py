"""The errors that the command line reports in one line."""


class ConfigError(ValueError):
    """A fault in what the user wrote, told in one line."""


class RunFailed(Exception):
    """A run failed, and the message says why and what to do, in one line."""
