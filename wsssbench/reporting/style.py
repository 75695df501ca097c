"""How every figure looks and how it becomes a file: colours, sizes, reproducible SVG and PNG."""

import base64
import io
import re
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from xml.sax.saxutils import escape

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from wsssbench.files import atomic, write_text

# Okabe & Ito's palette: told apart with any of the common colour vision deficiencies. Four of Paul
# Tol's colours follow for large grids.
COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C7A00"),
    *("#882255", "#44AA99", "#332288", "#999999"),
)
CORRECT, FALSE_POSITIVE, FALSE_NEGATIVE, WRONG = "#009E73", "#D55E00", "#0072B2", "#F0E442"
MARKERS = "osD^vPX*<>ph"
WIDTH_IN = 4.8  # fits a phone without zooming or scrolling, two beside each other on a desk
SHRINK = 0.72  # on a narrower screen than that a figure scrolls: its words stay readable
# Hundredths of a point are fine enough; matplotlib's six decimals are a third of a page.
PLACES = re.compile(r' (?:d|x|y|transform)="[^"]*"')
EMBEDDED = re.compile(r'"data:image/png;base64,([^"]+)"')
JPEG_QUALITY = 78
DECIMALS = re.compile(r"(\.\d\d)\d+")
SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#777777",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    # Text stays text: it can be searched and enlarged, and files are a third of the size.
    "svg.fonttype": "none",
    "svg.hashsalt": "wsssbench",
}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Run a drawing function under the report's settings, leaving the caller's as they are."""

    @wraps(draw)
    def inside(*args, **kwargs) -> Figure:
        with matplotlib.rc_context(SETTINGS):
            return draw(*args, **kwargs)

    return inside


def colour_of(names: Iterable[str]) -> dict[str, str]:
    """One colour per name, in order; the palette repeats after twelve."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(dict.fromkeys(names))}


def marker_of(names: Iterable[str]) -> dict[str, str]:
    """One marker per name, in order, so that colour is never the only sign."""
    return {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(dict.fromkeys(names))}


def legend_columns(names: Iterable[str], width_in: float = WIDTH_IN) -> int:
    """How many entries fit beside each other, so that long names do not run out of the figure."""
    entry_pt = 42 + 5.2 * max((len(name) for name in names), default=0)
    return max(1, min(4, int(72 * width_in // entry_pt)))


def svg(figure: Figure, name: str, title: str, description: str, photographs: bool = False) -> str:
    """The figure as SVG text for a page; the same figure gives the same text.

    Args:
        figure: the figure.
        name: unique on the page; all ids in the text begin with it.
        title: what is shown, read out by screen readers.
        description: what can be seen in it, in a sentence.
        photographs: its images are pictures, which need a fifth of the bytes as JPEG.
    """
    stream = io.StringIO()
    with matplotlib.rc_context(SETTINGS):
        empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", metadata=empty)
    figure.set_layout_engine("none")  # laid out now; doing it again takes as long as drawing
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    # Several figures stand in one page, and matplotlib counts its ids from 1 in each.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # nothing refers to groups
    text = PLACES.sub(lambda found: DECIMALS.sub(r"\1", found[0]), text)
    text = re.sub(r"\n\s+|\s*<!--.*?-->", "\n", text)
    if photographs:
        text = EMBEDDED.sub(lambda found: f'"{_as_jpeg(found[1])}"', text)
    _, _, width, height = re.search(r'viewBox="([^"]+)"', text)[1].split()
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{width}pt" height="{height}pt" '
        f'style="min-width: {SHRINK * float(width):.0f}pt; max-width: {float(width) * 1.2:.0f}pt" '
        f'role="img" aria-labelledby="{name}-title {name}-desc">\n'
        f'<title id="{name}-title">{escape(title)}</title>\n'
        f'<desc id="{name}-desc">{escape(description)}</desc>'
    )
    return re.sub(r"<svg[^>]*>", lambda _: head, text, count=1).rstrip() + "\n"


def jpeg_uri(image: Image.Image) -> str:
    """A picture as a data URI."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _as_jpeg(png: str) -> str:
    return jpeg_uri(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"))


def write_figure(figure: Figure, folder: Path, name: str, text: str) -> list[Path]:
    """Write <name>.svg (the given text) and <name>.png; returns the paths."""
    paths = [folder / f"{name}.svg", folder / f"{name}.png"]
    write_text(paths[0], text)
    with matplotlib.rc_context(SETTINGS), atomic(paths[1]) as stream:
        figure.savefig(stream, format="png", dpi=130, metadata={"Software": None})
    return paths
