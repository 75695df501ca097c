"""The claims of a study with what was seen of them: as a file that others can read, as a table."""

from pathlib import Path

import pandas as pd

from wsssbench.errors import UserError
from wsssbench.evaluation.mechanisms import MEASURES
from wsssbench.reporting.claims import Study
from wsssbench.reporting.table import Column, Table

CLAIMS = (  # texts of claims.csv
    *("study", "method", "claim", "mechanism", "contrast", "measure", "roles", "test"),
    *("expected", "effect", "interval", "agreeing", "classes", "verdict"),
)
NUMBERS = ("mean", "low", "high")


def claims_of(study: Study) -> pd.DataFrame:
    """One row per claim, as claims.csv holds it: what was tested, the effect and its verdict.

    Returns:
        mean, low, high (of the interval) and seeds are numbers; differences are those of the seeds,
        apart by blanks; the rest is text for people.
    """
    lines = []
    for one in study.found:
        claim, effect = one.claim, one.effect
        lines.append({
            "study": study.title or study.name,
            "method": study.title_of(claim.experiment),
            "claim": claim.name,
            "mechanism": claim.mechanism,
            "contrast": one.contrast,
            "measure": claim.measure,
            "roles": ", ".join(claim.roles),
            "test": claim.test or next(iter(study.settings.tests)),
            "expected": claim.expected.replace("-", "−"),
            "effect": signed(effect.mean),
            "interval": f"{signed(effect.low)} to {signed(effect.high)}"
                        if effect.low == effect.low else "",
            "agreeing": f"{effect.agreeing} of {effect.seeds}" if effect.seeds else "",
            "classes": one.classes,
            "verdict": one.verdict,
            "mean": effect.mean, "low": effect.low, "high": effect.high,
            "seeds": effect.seeds, "runs": study.under,
            "differences": " ".join(f"{value:.6g}" for value in one.differences),
        })  # fmt: skip
    return pd.DataFrame(lines, columns=[*CLAIMS, *NUMBERS, "seeds", "runs", "differences"])


def read_claims(path: Path) -> pd.DataFrame:
    """The claims of a page that was written here or elsewhere, see `claims_of`.

    Raises:
        UserError: the file is no such table.
    """
    try:
        texts = dict.fromkeys((*CLAIMS, "runs", "differences"), str)
        gaps = dict.fromkeys(NUMBERS, "")
        claims = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=gaps)
    except ValueError as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{path} cannot be read: {error}. Write the study's page again.") from error
    lacking = [name for name in (*CLAIMS, *NUMBERS, "seeds", "runs") if name not in claims]
    if lacking:
        raise UserError(f"{path} lacks {', '.join(lacking)}. Write the study's page again.")
    return claims if "differences" in claims else claims.assign(differences="")  # older pages


def claims_table(claims: pd.DataFrame, several: bool = False) -> Table:
    """One row per claim: effect, interval, expected sign, verdict.

    Args:
        claims: see `claims_of`.
        several: they are of several studies.
    """
    columns = [Column("mechanism", "what should happen"), Column("verdict", "verdict"),
               Column("expected", "expected", "range"), Column("effect", "effect", "range"),
               Column("interval", "95 % interval", "range"),
               Column("agreeing", "seeds of its sign", "range"),
               Column("classes", "classes of its sign", "range"),
               Column("contrast", "compared"), Column("measure", "measure"),
               Column("roles", "classes")]  # fmt: skip
    if several:
        columns = [c for c in columns if c.key not in ("classes", "contrast", "roles")]
        columns[:0] = [Column("study", "study"), Column("method", "method")]
    shown = tuple(
        c for c in columns if c.key in ("expected", "verdict") or claims[c.key].ne("").any()
    )
    runs = claims.drop_duplicates("study")
    under = " ".join(
        f"{one.study}: {one.runs}" if several else one.runs for one in runs.itertuples()
    )
    texts = [f"{name}: {MEASURES[name]}" for name in dict.fromkeys(claims["measure"])]
    notes = (f"{'; '.join(texts)}.",) if texts else ()
    return Table("claims", "Claims and what was seen of them.", claims, shown, notes, under=under)


def signed(value: float) -> str:
    """A number with its sign, three decimals."""
    return f"{value:+.3f}".replace("-", "−") if value == value else "–"
