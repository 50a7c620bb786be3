"""The one error type that this package raises on purpose."""

MOST_CHARACTERS = 600
"""Of a message: names out of other people's files can be as long as the file."""


class EsdError(ValueError):
    """Something that the user can mend: the message names the cause and the cure in one sentence."""

    def __init__(self, message: str) -> None:
        """One printable line of bounded length, whatever stands in the names that it quotes."""
        line = " ".join("".join(c if c.isprintable() else " " for c in message).split())
        half = MOST_CHARACTERS // 2
        super().__init__(line if len(line) <= MOST_CHARACTERS else f"{line[:half]} [...] {line[-half:]}")
