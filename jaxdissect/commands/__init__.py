"""One module a command: it runs the stages, puts their results into JSON, and makes the summary from that JSON.

`run` yields an `Outcome` for each stage. `*_results` makes the JSON of a stage, `*_summary` the text for a terminal.
docs/command-line.md describes the JSON.
"""
