"""Align a chain to what its parser should find: the reward is a chain too, and shares the parser.

Run it with `python cookbook/07_aligned_chain.py`; it takes under a minute on two cores.
"""

from operator import itemgetter

from langchain_core.output_parsers import CommaSeparatedListOutputParser
from langchain_core.prompts import ChatPromptTemplate

from aisp_langchain import AISPChatModel

parser = CommaSeparatedListOutputParser()
prompt = ChatPromptTemplate.from_template(
    "Suggest three names for my {thing}. Write the names only, separated by commas."
)


# What the program behind the chain needs: three names, each once, and nothing else. 0 is as good as it gets.
def three_names(names: list[str]) -> float:
    fit = [name for name in names if name[:1].isupper() and len(name.split()) <= 2]
    return -abs(len(set(fit)) - 3) - (len(names) - len(fit))


# Any Runnable that takes the answer and returns a number is a reward, so what the chain parses is what is scored.
reward = itemgetter("outputs") | parser | three_names

plain = AISPChatModel(model="smollm2-135m", dtype="float32", max_tokens=32, temperature=0)
# Searched until the reward is 0, in at most 24 answers.
aligned = AISPChatModel(
    model="smollm2-135m",
    dtype="float32",
    max_tokens=32,
    seed=2,
    rewards=reward,
    budget=24,
    num_samples=8,
    target_reward=0,
)

for thing in ("old parrot", "boat"):
    for name, llm in (("plain", plain), ("aligned", aligned)):
        names = (prompt | llm | parser).invoke({"thing": thing})
        print(f"{thing}, {name} ({three_names(names):+d}): {names}")
