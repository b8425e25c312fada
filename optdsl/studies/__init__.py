"""Studies: the claims about learned optimizers, measured again, with controls and a report.

A study is a declared grid of runs.  Runs are carried out side by side, each result is stored under
a hash of what decides it, and a report with a verdict for each claim is written from the results.
`docs/studies.md` describes the command, `optdsl study`.
"""
