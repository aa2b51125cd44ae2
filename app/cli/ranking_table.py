"""A ranking as a table that a person understands: the verdict, the models in order, what the numbers mean."""

from collections.abc import Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from app.cli.forecast import duration
from app.cli.terminal import printable
from app.client.resources import RankedModel, Results

_SHORT_NAMES = {
    "knn": "k-NN",
    "lda": "LDA",
    "logme": "LogME",
    "hscore_regularized": "H-score",
    "transrate_scalefree": "TransRate",
    "ridge_gcv": "ridge",
    "leep": "LEEP",
    "nce": "NCE",
    "lfc": "LFC",
    "lfc_offdiagonal": "LFC-o",
    "lfc_centered": "LFC-c",
}
_PREFERRED = ("knn", "logme", "lfc_centered", "lda", "leep", "lfc_offdiagonal", "lfc")
_SHARES = frozenset({"knn", "lda", "ridge_loo", "separation_index"})  # of images, shown in per cent


def ranking_table(results: Results, console: Console) -> RenderableType:
    """Return a ranking for a console; scores that its width does not hold are in the JSON and CSV results."""
    ranked = [row for row in results.data if row.rank is not None]
    failed = [row for row in results.data if row.error is not None]
    waiting = [row for row in results.data if row.rank is None and row.error is None]
    nothing = "Nothing was ranked." if results.final else "Nothing is ranked yet."
    parts: list[RenderableType] = [Text(printable(results.verdict or nothing), style="bold")]
    if ranked:
        parts += [Text(), _widest_that_fits(ranked, console), Text(), Text(_legend(results), style="dim")]
    if not results.final:
        parts.append(Text(f"This ranking is not final; still open: {_names(waiting)}.", style="yellow"))
    elif waiting:
        stopped = any(row.status == "over_budget" for row in waiting)
        why = "the budget was spent" if stopped else f"the selection is {results.status}"
        parts.append(Text(f"Not evaluated, for {why}: {_names(waiting)}.", style="yellow"))
    parts += [Text(printable(f"{warning.detail} ({warning.code})"), style="yellow") for warning in results.warnings]
    for row in failed:
        assert row.error is not None
        told = f" failed: {row.error.message} ({row.error.code})"
        parts.append(Text.assemble((printable(row.name), "bold red"), printable(told)))
        if row.error.hint:
            parts.append(Text(f"  {printable(row.error.hint)}", style="dim"))
    return Group(*parts, *_missing_forecasts(ranked))


def _missing_forecasts(ranked: Sequence[RankedModel]) -> list[RenderableType]:
    return [
        Text.assemble((printable(row.name), "bold"), printable(f" has no forecast: {why.message} ({why.code})"))
        for row in ranked
        if (why := row.forecast_error) is not None
    ]


def _widest_that_fits(ranked: Sequence[RankedModel], console: Console) -> Table:
    """Return the table with as many columns as the console is wide enough for."""
    there = {name for row in ranked for name in row.scores}
    scores = [name for name in _PREFERRED if name in there] + sorted(there - {*_PREFERRED, "linear_probe"})
    unlimited = console.options.update_width(1000)
    for shown in range(len(scores), -1, -1):
        table = _table(ranked, scores[:shown])
        if console.measure(table, options=unlimited).maximum <= console.width:
            return table
    return _table(ranked, [], is_narrow=True)


def _table(ranked: Sequence[RankedModel], scores: Sequence[str], *, is_narrow: bool = False) -> Table:
    table = Table(box=box.HORIZONTALS, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("#", justify="right")
    table.add_column("range", no_wrap=True)
    table.add_column("model", overflow="fold")
    table.add_column("probe accuracy", no_wrap=True)
    is_race = len({row.images for row in ranked}) > 1
    if is_race:
        table.add_column("images", justify="right", no_wrap=True)
    has_forecast = any(row.forecast or row.forecast_error for row in ranked)
    is_verified = any(row.verified for row in ranked)
    if is_verified:
        table.add_column("fine-tuned", no_wrap=True)
    if has_forecast:
        table.add_column("fine-tuning", justify="right", no_wrap=True)
    if not is_narrow:
        table.add_column("size", justify="right", no_wrap=True)
        table.add_column("pretrained on")
    for name in scores:
        table.add_column(_SHORT_NAMES.get(name, name), justify="right", no_wrap=True)
    for row, following in zip(ranked, [*ranked[1:], None], strict=True):
        cells: list[RenderableType] = [str(row.rank), _rank_interval(row), Text(printable(row.name)), _accuracy(row)]
        if is_race:
            cells.append(f"{row.images or 0:,}")
        if is_verified:
            cells.append(_verified(row))
        if has_forecast:
            cells.append(_fine_tuning(row))
        if not is_narrow:
            cells += [_size(row.parameters), Text(printable(",\n".join(row.pretraining) or "-"))]
        style = "green" if row.tie_group == 1 else ""
        is_last_of_group = following is None or following.tie_group != row.tie_group
        table.add_row(*cells, *(_score(row, name) for name in scores), style=style, end_section=is_last_of_group)
    return table


def _rank_interval(row: RankedModel) -> str:
    if row.rank_interval is None:
        return ""
    low, high = row.rank_interval
    return str(low) if low == high else f"{low}-{high}"


def _accuracy(row: RankedModel) -> str:
    if row.probe_accuracy is None:
        return ""
    low, high = row.probe_accuracy.interval
    return f"{row.probe_accuracy.mean:6.1%} ({100 * low:.1f}-{100 * high:.1f})"


def _verified(row: RankedModel) -> str:
    found = row.verified
    if found is None:
        return ""
    if found.test_accuracy is None or found.interval is None:
        return found.verdict.replace("_", " ")
    low, high = found.interval
    return f"{found.test_accuracy:6.1%} ({100 * low:.1f}-{100 * high:.1f})"


def _fine_tuning(row: RankedModel) -> str:
    found = row.forecast
    if found is None:
        return "-"
    if found.verdict != "reached":
        return found.verdict.replace("_", " ")
    assert found.steps is not None
    return f"{found.steps:.0f} steps" if found.seconds is None else duration(found.seconds)


def _size(parameters: int | None) -> str:
    return "" if parameters is None else f"{parameters / 1e6:.1f} M"


def _score(row: RankedModel, name: str) -> str:
    score = row.scores.get(name)
    if score is None or score.value is None:
        return "-"
    return f"{score.value:.1%}" if name in _SHARES else f"{score.value:.3f}"


def _legend(results: Results) -> str:
    level = f"{results.evidence.get('level', 0.9):.0%}"
    images = results.evidence.get("images") or {}
    lines = [
        f"Between two lines: statistically tied. Range: the ranks a model may really have ({level} confidence).",
        f"Probe accuracy: unseen images that a linear classifier on frozen features gets right ({level} interval).",
        "Size: millions of weights. The scores behind do not change the order; larger is better.",
    ]
    if images.get("evaluated") and images["evaluated"] != images["in_dataset"]:
        split = f" (split {images['split']})" if images.get("split") else ""
        lines.append(f"Measured on {images['evaluated']:,} of the {images['in_dataset']:,} images{split}.")
    lines += _forecast_legend(results)
    if any(row.verified for row in results.data):
        lines.append("Fine-tuned: measured by real training, on images that it has not seen.")
    race = results.evidence.get("race")
    if race:
        lines.append(
            f"A race for the first {race['keep']}: a model leaves it once so many others are surely better on the "
            f"images seen by then. The luck of a subset loses one of the true first {race['keep']} with a probability "
            f"of at most {race['error_probability']:.0%}; one that learns slowly from few images may be lost besides."
        )
    if images.get("near_duplicates"):
        lines.append(f"{images['near_duplicates']:,} near-duplicates count as one image with what they repeat.")
    reduced = sorted({row.precision.used for row in results.data if row.precision} - {"float32"})
    for precision in reduced:
        names = _names([row for row in results.data if row.precision and row.precision.used == precision])
        lines.append(f"Features computed in {precision}, after a check against float32: {names}.")
    if results.evidence.get("warnings"):
        lines.append("Scores warn of: " + ", ".join(results.evidence["warnings"]) + ".")
    return "\n".join(lines)


def _forecast_legend(results: Results) -> list[str]:
    forecasts = [row.forecast for row in results.data if row.forecast]
    if not forecasts:
        return []
    targets = "; ".join(sorted({one.definition for one in forecasts}))
    lines = [f"Fine-tuning: time to {targets}. `foretune forecast` has the interval."]
    codes = sorted({code for one in forecasts for code in one.warnings})
    if codes:
        lines.append("Forecasts warn of: " + ", ".join(codes) + ".")
    return lines


def _names(rows: Sequence[RankedModel]) -> str:
    return printable(", ".join(row.name for row in rows))
