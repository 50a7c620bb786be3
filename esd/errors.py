"""The one error type that this package raises on purpose."""


class EsdError(ValueError):
    """Something that the user can mend: the message names the cause and the cure in one sentence."""
