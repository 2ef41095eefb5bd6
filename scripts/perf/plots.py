"""Charts as SVG text."""

from html import escape

WIDTH, ROW, LABEL, RIGHT = 720, 26, 190, 130
STYLE = (
    "<style>text{font:12px sans-serif;fill:#222}.t{font-size:14px;font-weight:bold}.b{fill:#4878a8}.w{stroke:#c44;stroke-width:2}"
    ".l{fill:none;stroke:#4878a8;stroke-width:2}.a{stroke:#aaa}@media(prefers-color-scheme:dark){text{fill:#ddd}}</style>"
)


def number(value):
    return f"{value:.4g}" if abs(value) < 10000 else f"{value:.0f}"


def svg(height, body):
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img">'
        f"{STYLE}{''.join(body)}</svg>\n"
    )


def bars(title, unit, rows):
    """Rows of (label, value, spread): a bar each, with a whisker of one spread to both sides."""
    top = max((value + spread for _, value, spread in rows), default=0.0) or 1.0
    scale = (WIDTH - LABEL - RIGHT) / top
    body = [f'<text class="t" x="8" y="20">{escape(title)} ({escape(unit)})</text>']
    for index, (label, value, spread) in enumerate(rows):
        y = 34 + index * ROW
        low, high = (LABEL + max(0.0, edge) * scale for edge in (value - spread, value + spread))
        body.append(f'<text x="{LABEL - 8}" y="{y + 14}" text-anchor="end">{escape(label)}</text>')
        body.append(f'<rect class="b" x="{LABEL}" y="{y}" width="{max(0.0, value) * scale:.1f}" height="{ROW - 8}"/>')
        if spread > 0:
            body.append(f'<line class="w" x1="{low:.1f}" x2="{high:.1f}" y1="{y + 9}" y2="{y + 9}"/>')
        text = f"{number(value)} ± {number(spread)}" if spread > 0 else number(value)
        body.append(f'<text x="{high + 8:.1f}" y="{y + 14}">{text}</text>')
    return svg(44 + ROW * len(rows), body)


def line(title, unit, points):
    """Points of (label, value, spread) from left to right."""
    height, left, bottom = 240, 70, 190
    top = max((value + spread for _, value, spread in points), default=0.0) or 1.0
    step = (WIDTH - left - 30) / max(1, len(points) - 1)
    place = lambda index, value: (left + index * step, bottom - (bottom - 40) * value / top)
    body = [f'<text class="t" x="8" y="20">{escape(title)} ({escape(unit)})</text>']
    for share in (0.0, 0.5, 1.0):
        _, y = place(0, top * share)
        body.append(f'<line class="a" x1="{left}" x2="{WIDTH - 30}" y1="{y:.1f}" y2="{y:.1f}"/>')
        body.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{number(top * share)}</text>')
    path = " ".join("{:.1f},{:.1f}".format(*place(index, value)) for index, (_, value, _) in enumerate(points))
    body.append(f'<polyline class="l" points="{path}"/>')
    every = max(1, len(points) // 10)
    for index, (label, value, spread) in enumerate(points):
        x, y = place(index, value)
        (_, low), (_, high) = place(index, max(0.0, value - spread)), place(index, value + spread)
        body.append(f'<line class="w" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
        body.append(f'<circle class="b" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(label)}: {number(value)}</title></circle>')
        if index % every == 0:
            body.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(label)}</text>')
    return svg(height, body)
