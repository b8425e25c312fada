"""The style sheet of a page: one column, for phones, for print, and for light and dark screens.

Figures are as wide as the column. A table that is wider scrolls in its box; a shade at an edge says
that there is more behind it: it does not move, and what covers it at the ends of the table does.
"""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --soft: #5c5c5c;
  --line: #d8d8d8; --block: #f5f5f3;
  --shade: #0006; --holds: #1a7f37; --part: #9a6700; --not: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e6e3; --paper: #16181a; --soft: #a8a6a2; --line: #3a3d40; --block: #1f2225;
    --shade: #fff6;
    --holds: #56c271; --part: #e0b050; --not: #ff8f86; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 52rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { margin-top: 3rem; font-size: 1.3rem;
  border-bottom: 1px solid var(--line); } h3 { font-size: 1.1rem; margin-top: 2rem; }
a { color: inherit; } small, figcaption, caption { color: var(--soft); font-size: .85rem; }
figure { margin: 1.2rem 0; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { margin-top: .3rem; }
.wide { overflow-x: auto; background:
    linear-gradient(to right, var(--paper) 40%, transparent) left / 3rem 100% no-repeat local,
    linear-gradient(to left, var(--paper) 40%, transparent) right / 3rem 100% no-repeat local,
    linear-gradient(to right, var(--shade), transparent) left / 1rem 100% no-repeat scroll,
    linear-gradient(to left, var(--shade), transparent) right / 1rem 100% no-repeat scroll; }
.wide caption { position: sticky; left: 0; width: max-content;
  max-width: min(50rem, 100vw - 2rem); }
table { border-collapse: collapse; font-size: .85rem;
  font-variant-numeric: tabular-nums; } caption { text-align: left; padding: .3rem 0; }
th, td { padding: .2rem .7rem .2rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); } th:first-child, td:first-child { text-align: left; }
th { white-space: normal; vertical-align: bottom; }
.wide th:first-child, .wide td:first-child { position: sticky; left: 0; background: var(--paper); }
td.good { color: var(--holds); } td.bad { color: var(--not); }
table.summary td { white-space: normal; }
dl { margin: 0; } dt { font-weight: 600; margin-top: .7rem; } dd { margin: 0; }
.verdict { padding: .5rem .8rem; border-left: 5px solid var(--soft); background: var(--block);
  font-weight: 600; } .holds { border-color: var(--holds); } .part { border-color: var(--part); }
.not { border-color: var(--not); } .unknown { border-color: var(--soft); }
ul.criteria { list-style: none; padding: 0; font-size: .9rem; }
ul.criteria li { padding-left: 1.4rem; text-indent: -1.4rem; margin: .3rem 0; }
code, pre { font: .85rem/1.4 ui-monospace, monospace; background: var(--block); }
pre { padding: .6rem; overflow-x: auto; white-space: pre-wrap; }
@media print { :root { --ink: #000; --paper: #fff; --soft: #444; --line: #bbb; --block: #f5f5f3; }
  body { max-width: none; font-size: 10pt; } figure, tr, dl, .verdict { break-inside: avoid; }
  h2 { break-before: page; } h2, h3, caption, thead { break-after: avoid; }
  .wide { overflow: visible; background: none; } table { font-size: 7.5pt; }
  th, td { white-space: normal; padding: .1rem .4rem .1rem 0; } }
"""
