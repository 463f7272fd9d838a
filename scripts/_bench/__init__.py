"""Measures how long clusters take to form, with this project and with ``valkey-cli --cluster create``.

Run by scripts/bench; docs/benchmarks.md says what is measured. `witness` has the clocks, `formation` one measurement,
`series` and `cold` the two series of them, `results` the table and the JSON file, `picture` the drawing.
"""
