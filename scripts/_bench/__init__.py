"""Measures how long clusters take to form, with this project and with ``valkey-cli --cluster create``.

Run by scripts/bench; docs/benchmarks.md says what is measured. `witness` has the clocks, `formation` one measurement,
`series` and `cold` two series of them, `fixture`, `resets` and `imports` what a test suite waits for, `churn` and
`cancel` whether anything is left, `results` the table and the JSON file, `picture` the drawing.
"""
