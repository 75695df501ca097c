"""A figure with the words that belong to it."""

from dataclasses import dataclass

from matplotlib.figure import Figure

from wsssbench.reporting.style import WIDTH_IN


@dataclass(frozen=True)
class Drawing:
    """A figure, its file name without ending, the section it belongs to, title and description.

    The description is the sentence that screen readers get.
    """

    name: str
    section: str
    title: str
    description: str
    figure: Figure

    @property
    def wide(self) -> bool:
        """Whether it needs the width of the page."""
        return self.figure.get_figwidth() > 1.4 * WIDTH_IN


def file_name(text: str) -> str:
    """The text without what a file name may not hold: `cam/scg` becomes `cam-scg`."""
    return text.replace("/", "-")
