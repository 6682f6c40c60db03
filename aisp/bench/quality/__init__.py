"""Quality of strategies at equal budgets: searches against best-of-n from one pool of plain samples a prompt.

runs.py        pools of plain samples, searches, scores: one JSONL row each, so that a killed run goes on
reading.py     how an answer reads: repetition, loops and salad against plain samples of the same prompt
statistics.py  what best-of-n expects of a pool, paired differences with bootstrap intervals, diversity
chosen.py      the very texts that are returned; pairs.py shows them, pairwise.py has a judge compare them
answers.py     what the returned answers measure after every number of responses
report.py      differences at equal responses, rewards and seconds; curves.py has proxy and gold against sqrt(KL)
tables.py, reader_tables.py, picture.py  what is shown of it
"""
