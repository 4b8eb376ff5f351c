"""The style sheet of a report: one accent, one colour for what is wrong, light and dark, desktop and phone."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfc; --ink: #1b1e23; --soft: #5c636e; --line: #e3e5e8; --raised: #f4f5f6;
  --accent: #0a66a8; --wrong: #c4500a; --on: #ffffff;
  --c0: #0072b2; --c1: #d98a00; --c2: #009e73; --c3: #c0609a; --c4: #4ba6dd; --c5: #d55e00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14161a; --ink: #e8eaed; --soft: #9aa2ad; --line: #2d3138; --raised: #1c1f24;
    --accent: #5bb2ea; --wrong: #f0894a; --on: #0d0f12;
    --c0: #4a9fd8; --c1: #eeb03c; --c2: #2ec49a; --c3: #dd8fc0; --c4: #93d2f7; --c5: #f0894a;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body {
  margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", Arial, sans-serif; font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
header, main, footer { max-width: 1120px; margin: 0 auto; padding: 0 28px; }
header { padding-top: 52px; }
h1 { font-size: 30px; line-height: 1.2; font-weight: 650; letter-spacing: -.015em; margin: 0 0 6px; }
header p { margin: 0; color: var(--soft); }
nav { margin-top: 22px; font-size: 14px; }
nav ul { display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; margin: 0; padding: 0; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; border-radius: 3px; }
section {
  display: grid; grid-template-columns: 232px minmax(0, 1fr); column-gap: 56px; padding: 44px 0;
  border-top: 1px solid var(--line);
}
main { margin-top: 36px; }
.about h2 { font-size: 18px; line-height: 1.3; font-weight: 620; margin: 0 0 8px; }
.about p { margin: 0; color: var(--soft); font-size: 14px; }
main .content > * { margin-top: 0; }
main .content > * + * { margin-top: 24px; }
h3 { font-size: 14px; font-weight: 620; margin: 0 0 10px; }
p { margin: 0; max-width: 68ch; }
.soft { color: var(--soft); }
.small { font-size: 13px; }
.two { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 32px; align-items: start; }
.headline { display: flex; flex-wrap: wrap; align-items: baseline; gap: 6px 16px; }
.headline strong { font-size: 60px; line-height: 1; font-weight: 650; letter-spacing: -.03em; color: var(--accent); }
.headline span { color: var(--soft); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); gap: 18px 24px; margin: 0; }
.facts dt { font-size: 13px; color: var(--soft); }
.facts dd { margin: 0; font-size: 21px; font-weight: 600; letter-spacing: -.01em; }
.notes { margin: 0; padding: 0; list-style: none; font-size: 14px; color: var(--soft); }
.notes li { padding-left: 16px; position: relative; }
.notes li + li { margin-top: 4px; }
.notes li::before { content: ""; position: absolute; left: 0; top: .62em; width: 5px; height: 5px; border-radius: 50%;
  background: var(--wrong); }
.verdict { border-left: 3px solid var(--accent); padding: 2px 0 2px 16px; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; width: 100%; font-size: 14px; overflow-wrap: normal; }
.long { max-height: 520px; overflow: auto; }
.long thead th { position: sticky; top: 0; background: var(--paper); z-index: 1; }
th, td { text-align: left; padding: 6px 18px 6px 0; border-bottom: 1px solid var(--line); vertical-align: baseline; }
th:last-child, td:last-child { padding-right: 0; }
thead th { font-weight: 560; font-size: 13px; color: var(--soft); white-space: nowrap; }
tbody th { font-weight: 560; overflow-wrap: anywhere; min-width: 88px; }
.n { text-align: right; white-space: nowrap; }
.text { overflow-wrap: anywhere; min-width: 90px; }
.names th { width: 190px; padding-right: 24px; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
th button:hover { color: var(--ink); }
th button::after { content: "\\2195"; opacity: .35; margin-left: 4px; font-size: 11px; }
th[aria-sort="ascending"] button::after { content: "\\2191"; opacity: 1; }
th[aria-sort="descending"] button::after { content: "\\2193"; opacity: 1; }
svg { display: block; width: 100%; max-width: calc(var(--natural) * 1.15); height: auto; overflow: visible; }
svg.spark { width: 150px; max-width: none; }
svg.map, svg.wide { max-width: none; }
svg text { font-size: 13px; fill: var(--soft); }
svg .title { fill: var(--soft); }
svg .strong { fill: var(--ink); font-weight: 600; }
.grid { stroke: var(--line); stroke-width: 1; }
.axis { stroke: var(--soft); stroke-width: 1; opacity: .6; }
.ideal { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 4 4; fill: none; }
.accent { stroke: var(--accent); fill: var(--accent); }
.calm { stroke: var(--soft); fill: var(--soft); }
polyline { stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
polyline.accent, polyline.calm { fill: none; }
.fill { fill: var(--accent); }
.fill-calm { fill: var(--soft); opacity: .35; }
.fill-wrong { fill: var(--wrong); }
.whisker { stroke: var(--ink); stroke-width: 1.2; opacity: .55; }
.bad { fill: var(--wrong); }
.cell { stroke: var(--paper); stroke-width: .6; }
.back { fill: var(--raised); }
svg .count { font-size: 11px; fill: var(--ink); pointer-events: none; text-anchor: middle; }
svg .count.on { fill: var(--on); }
svg .now { stroke: var(--ink); stroke-width: 2; }
.p0 { fill: var(--c0); } .p1 { fill: var(--c1); } .p2 { fill: var(--c2); }
.p3 { fill: var(--c3); } .p4 { fill: var(--c4); } .p5 { fill: var(--c5); }
.plain { fill: var(--soft); opacity: .55; }
.point { stroke: var(--paper); stroke-width: .8; }
.point.miss { stroke: var(--ink); stroke-width: 1.6; }
.dim { opacity: .09; }
.legend { display: flex; flex-wrap: wrap; gap: 6px 14px; margin: 0; padding: 0; list-style: none; font-size: 13px; }
.legend li { display: flex; align-items: center; gap: 6px; }
.legend svg { width: 14px; height: 14px; flex: none; }
.legend button { font: inherit; color: inherit; display: flex; align-items: center; gap: 6px; background: none; border: 0;
  padding: 4px 2px; cursor: pointer; text-align: left; }
.legend button[aria-pressed="true"] { font-weight: 650; text-decoration: underline; text-underline-offset: 3px; }
select { font: inherit; font-size: 14px; color: inherit; background: var(--raised); border: 1px solid var(--line);
  border-radius: 5px; padding: 4px 8px; max-width: 100%; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 26px 20px; margin: 0; padding: 0;
  list-style: none; }
.gallery figure { margin: 0; }
.gallery .frame { background: var(--raised); border-radius: 6px; aspect-ratio: 1; display: flex; align-items: center;
  justify-content: center; overflow: hidden; margin-bottom: 8px; color: var(--soft); font-size: 13px; }
.gallery img { width: 100%; height: 100%; object-fit: contain; display: block; }
figcaption { font-size: 13px; line-height: 1.45; }
figcaption b { font-weight: 600; }
figcaption .was { color: var(--wrong); }
figcaption .id { color: var(--soft); display: block; font-size: 12px; }
#tip { position: fixed; z-index: 9; pointer-events: none; max-width: 260px; background: var(--ink); color: var(--paper);
  border-radius: 6px; padding: 7px 10px; font-size: 13px; line-height: 1.4; left: 0; top: 0; visibility: hidden;
  white-space: pre-line; }
#tip img { display: block; width: 112px; height: 112px; object-fit: contain; margin: 2px 0 6px; }
footer { padding-top: 26px; padding-bottom: 60px; color: var(--soft); font-size: 13px; }
section:last-child { border-bottom: 1px solid var(--line); }
@media (max-width: 900px) {
  section { grid-template-columns: minmax(0, 1fr); padding: 34px 0; }
  .about { margin-bottom: 20px; }
  .two { grid-template-columns: minmax(0, 1fr); }
}
@media (max-width: 520px) {
  header, main, footer { padding-left: 18px; padding-right: 18px; }
  header { padding-top: 32px; }
  h1 { font-size: 25px; }
  .headline strong { font-size: 48px; }
  .gallery { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 22px 14px; }
  th, td { padding-right: 12px; }
  th button::after { display: none; }
  th[aria-sort] button::after { display: inline; }
  .names th { width: 136px; }
  .names tbody th { min-width: 136px; }
  .map .point { transform: scale(1.6); transform-box: fill-box; transform-origin: center; }
  .extra { display: none; }
}
@media print {
  section { break-inside: avoid; }
  nav { display: none; }
  .long { max-height: none; }
}
"""
