"""Spans of time in words."""


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss, or m:ss where there are no hours."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
