"""Quality of strategies at equal budgets: searches against best-of-n from one pool of plain samples a prompt.

runs.py        pools of plain samples, searches, scores: one JSONL row each, so that a killed run goes on
statistics.py  what best-of-n expects of a pool, paired differences with bootstrap intervals, diversity
report.py      tables and pictures of the rows
"""
