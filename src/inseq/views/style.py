"""The style sheet of the page: scoped under one class, light and dark, no style attributes."""

from __future__ import annotations

from functools import cache

from inseq.views.colours import Theme, css, ink, palette

ALWAYS_LIGHT = (
    '[data-theme="light"]',
    'html[theme="light"]',
    'body[data-jp-theme-light="true"]',
    'body[data-vscode-theme-kind="vscode-light"]',
)
ALWAYS_DARK = (
    '[data-theme="dark"]',
    'html[theme="dark"]',
    'body[data-jp-theme-light="false"]',
    'body[data-vscode-theme-kind="vscode-dark"]',
)

LAYOUT = """
.inseq{color-scheme:light dark;--ink:light-dark(#1f2328,#e6e8eb);--soft:light-dark(#5b6470,#a3abb6);
--line:light-dark(#dfe3e8,#343941);--paper:light-dark(#ffffff,#16181d);--hover:light-dark(#f3f5f7,#23272e);
color:var(--ink);background:var(--paper);text-align:left;line-height:1.5;font-size:15px;font-weight:400;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Noto Sans","Liberation Sans","PingFang SC",
"Hiragino Sans","Microsoft YaHei","Noto Sans CJK SC","WenQuanYi Micro Hei",sans-serif}
.inseq *{box-sizing:border-box}
.inseq section{padding:20px 24px}
.inseq section+section{border-top:1px solid var(--line)}
.inseq h2{margin:0 0 12px;font-size:17px;font-weight:600}
.inseq p{margin:0}
.inseq .text{display:grid;grid-template-columns:5.2em 1fr;margin-bottom:8px;align-items:baseline}
.inseq .name{color:var(--soft);font-size:12.5px}
.inseq .run{font-size:18px;line-height:1.75;overflow-wrap:anywhere}
.inseq .tok{unicode-bidi:isolate;white-space:pre-wrap;border-radius:3px;padding:2px 1px}
.inseq .apart{margin:0 1px}
.inseq .tok.special,.inseq .heat .special{color:var(--soft);font-size:.82em}
.inseq .run .special{margin:0 3px;padding:2px 4px}
.inseq .tok.pieces{outline:1px dotted var(--soft);outline-offset:-1px}
.inseq .scroll{overflow:auto;max-width:100%;margin:14px 0 10px}
.inseq .heat{border-collapse:separate;border-spacing:2px;border:0;margin:0;width:auto;font-size:13px;
font-variant-numeric:tabular-nums;background:none;color:inherit}
.inseq .heat th,.inseq .heat td{border:0;padding:0 7px;height:28px;white-space:nowrap;background:none;color:inherit}
.inseq .heat tr{background:none}
.inseq .heat thead th{font-weight:500;text-align:center;vertical-align:bottom;padding-bottom:3px;font-size:14px}
.inseq .heat th.row{font-weight:500;text-align:right;padding-right:10px;position:sticky;left:0;background:var(--paper);
font-size:14px}
.inseq .heat td{text-align:center;min-width:46px;border-radius:3px}
.inseq .heat td.none{background:repeating-linear-gradient(135deg,transparent 0 5px,var(--line) 5px 6px);opacity:.55}
.inseq .heat .corner{color:var(--soft);font-weight:400;font-size:12px;text-align:right}
.inseq .heat .under th,.inseq .heat .under td{height:25px;color:var(--soft)}
.inseq .heat .under th.row{font-weight:400;font-size:12.5px}
.inseq .heat .first th,.inseq .heat .first td{border-top:1px solid var(--line);border-radius:0}
.inseq .heat tr:hover th.row{background:var(--hover)}
.inseq bdi{max-width:14em;overflow:hidden;text-overflow:ellipsis;display:inline-block;vertical-align:bottom}
.inseq .legend{display:flex;align-items:center;gap:8px;font-size:12.5px;color:var(--soft);flex-wrap:wrap;
font-variant-numeric:tabular-nums}
.inseq .bar{display:flex;border-radius:3px;overflow:hidden;outline:1px solid var(--line)}
.inseq .bar i{width:5px;height:11px}
.inseq .facts{display:flex;flex-wrap:wrap;gap:3px 20px;margin:14px 0 0;padding:10px 0 0;border-top:1px solid var(--line);
font-size:12.5px}
.inseq .facts div{display:flex;gap:6px;max-width:100%}
.inseq dt{color:var(--soft);font-weight:400;white-space:nowrap}
.inseq dd{margin:0;overflow-wrap:anywhere}
.inseq .remark{color:var(--soft);font-style:italic;margin:8px 0}
"""
PAGE = """
html{color-scheme:light dark}
body{margin:0;background:light-dark(#ffffff,#16181d)}
body>.inseq{max-width:1180px;margin:0 auto}
"""


@cache
def sheet() -> str:
    """Return the style of a fragment. Themes only switch ``color-scheme``; every colour knows both sides."""
    switches = [f"{_scoped(ALWAYS_LIGHT)}{{color-scheme:light}}", f"{_scoped(ALWAYS_DARK)}{{color-scheme:dark}}"]
    rules = [_rule(f"s{i}", *both) for i, both in enumerate(_pairs("sequential"))]
    rules += [_rule(f"d{i}", *both) for i, both in enumerate(_pairs("diverging"))]
    return "\n".join([LAYOUT.strip(), *switches, *rules])


def _pairs(kind: str) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    def coloured(theme: Theme) -> list[tuple[str, str]]:
        fills = palette("diverging" if kind == "diverging" else "sequential", theme)
        return [(css(fill), css(ink(fill))) for fill in fills]

    return list(zip(coloured("light"), coloured("dark"), strict=True))


def _rule(name: str, light: tuple[str, str], dark: tuple[str, str]) -> str:
    return (
        f".inseq .{name}.{name}{{background:{light[0]};color:{light[1]};"
        f"background:light-dark({light[0]},{dark[0]});color:light-dark({light[1]},{dark[1]})}}"
    )


def _scoped(hosts: tuple[str, ...]) -> str:
    return ",".join(f"{host} .inseq" for host in hosts)
