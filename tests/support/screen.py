"""What a courier says, for a test to read."""


class Screen:
    """News alone; how many records are still to be delivered is said as often as a busy machine needs."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, text: str, style: str | None = None) -> None:
        if "still to be delivered" not in text:
            self.lines.append(text)
