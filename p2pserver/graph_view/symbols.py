"""How each kind of event looks. Kinds differ in shape and stroke: nobody needs the colors to tell them apart."""

from __future__ import annotations

from p2pserver.graph_view.model import GraphEvent, Look


def number(value: float) -> str:
    """A length for SVG: at most one decimal, none where it says nothing."""
    return f"{value:.1f}".removesuffix(".0")


def event_symbol(event: GraphEvent, color: str, x: float, y: float, r: float) -> str:
    parts = [look_symbol(event.look, color, x, y, r)]
    if event.extremity:
        parts.append(extremity_ring(color, x, y, r))
    if event.redacted_copy:
        parts.append(torn(event.look, color, x, y, r))
    elif event.redacted_by is not None:
        parts.append(bar(x, y, r))
    return "".join(parts)


def look_symbol(look: Look, color: str, x: float, y: float, r: float) -> str:
    at = f'cx="{number(x)}" cy="{number(y)}"'
    stroke = f'stroke="{color}" stroke-width="{number(max(1.2, r / 4))}"'
    match look:
        case Look.MESSAGE:
            return f'<circle {at} r="{number(r)}" fill="{color}"/>'
        case Look.STATE:
            return _square(x, y, r * 0.95, f'fill="{color}" rx="2"')
        case Look.HEALING:
            d = r * 1.25
            points = f"{number(x - d)},{number(y)} {number(x)},{number(y - d)} {number(x + d)},{number(y)} "
            points += f"{number(x)},{number(y + d)}"
            plus = r * 0.55
            lines = _lines((x - plus, y, x + plus, y), (x, y - plus, x, y + plus))
            return f'<polygon points="{points}" fill="{color}"/><path class="cut" d="{lines}"/>'
        case Look.SOFT_FAILED:
            dashes = f"{number(r * 0.5)} {number(r * 0.35)}"
            return f'<circle {at} r="{number(r)}" class="paper" {stroke} stroke-dasharray="{dashes}"/>'
        case Look.REJECTED:
            half = r * 0.55
            lines = _lines((x - half, y - half, x + half, y + half), (x - half, y + half, x + half, y - half))
            return f'<circle {at} r="{number(r)}" class="paper" {stroke}/><path d="{lines}" {stroke}/>'
        case Look.OUTLIER:
            dots = f"0.1 {number(r * 0.45)}"
            return (
                f'<circle {at} r="{number(r * 0.8)}" class="paper" {stroke} stroke-dasharray="{dots}"'
                ' stroke-linecap="round"/>'
            )


def extremity_ring(color: str, x: float, y: float, r: float) -> str:
    return (
        f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(r * 1.6)}" fill="none" stroke="{color}"'
        f' stroke-width="{number(max(1, r / 6))}"/>'
    )


def torn(look: Look, color: str, x: float, y: float, r: float) -> str:
    """Two gashes: the content is not what its author hashed."""
    lines = _lines(
        (x - r * 0.75, y + r * 0.15, x + r * 0.15, y - r * 0.75),
        (x - r * 0.15, y + r * 0.75, x + r * 0.75, y - r * 0.15),
    )
    if look in (Look.MESSAGE, Look.STATE, Look.HEALING):
        return f'<path class="cut" d="{lines}"/>'
    return f'<path d="{lines}" stroke="{color}" stroke-width="1.2"/>'


def bar(x: float, y: float, r: float) -> str:
    """A bar across: somebody took the content away."""
    return (
        f'<rect x="{number(x - r * 1.3)}" y="{number(y - r * 0.32)}" width="{number(r * 2.6)}"'
        f' height="{number(r * 0.64)}" class="ink"/>'
    )


def gap_symbol(x: float, y: float, r: float) -> str:
    return (
        f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(r)}" class="paper gap"/>'
        f'<text class="small" x="{number(x)}" y="{number(y + r * 0.45)}" text-anchor="middle">?</text>'
    )


def row_symbol(count: int, color: str, x: float, y: float, r: float) -> str:
    """Plain events one after the other, drawn as one."""
    half = r * 1.1 + 3.2 * len(str(count))
    return (
        f'<rect x="{number(x - half)}" y="{number(y - r)}" width="{number(2 * half)}" height="{number(2 * r)}"'
        f' rx="{number(r)}" class="paper" stroke="{color}" stroke-width="1.5"/>'
        f'<text class="small" x="{number(x)}" y="{number(y + 3.2)}" text-anchor="middle">{count}</text>'
    )


def _square(x: float, y: float, half: float, attributes: str) -> str:
    size = number(2 * half)
    return f'<rect x="{number(x - half)}" y="{number(y - half)}" width="{size}" height="{size}" {attributes}/>'


def _lines(*lines: tuple[float, float, float, float]) -> str:
    return "".join(f"M{number(x1)} {number(y1)}L{number(x2)} {number(y2)}" for x1, y1, x2, y2 in lines)
