"""Two users share one loaded model, and each has weights of their own, in the same batch.

Run it with `python cookbook/06_two_users_one_model.py`; it takes under a minute on two cores.
"""

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableParallel

from aisp.errors import ConfigurationError
from aisp.rewards import FunctionReward, Length
from aisp_langchain import AISPChatModel
from aisp_langchain.rewards import Preferences


def share_of_words(text: str, low: int, high: int) -> float:
    words = [word.strip(".,:;!?()") for word in text.split()]
    return sum(low <= len(word) <= high for word in words) / max(len(words), 1)


# One reward with named parts. Nobody has to want all of them.
simple = FunctionReward(lambda text: share_of_words(text, 1, 5), name="simple")
learned = FunctionReward(lambda text: share_of_words(text, 9, 30), name="learned")
rewards = simple + learned + Length(1, 20, name="brief")
llm = AISPChatModel(
    model="smollm2-135m",
    dtype="float32",
    max_tokens=32,
    temperature=0.7,
    seed=1,
    rewards=rewards,
    budget=12,
    num_samples=6,
)

# What a user wants is a mapping, so that it can live in a file. Parts that it doesn't name keep their weight.
ann = Preferences.from_yaml("{simple: 1.0, learned: 0, brief: 0.5}")
ben = Preferences.from_yaml("weights:\n  simple: 0\n  learned: 1.0\n  brief: 0\n")

prompt = ChatPromptTemplate.from_template("Why {question}?")
both = RunnableParallel(
    ann=prompt | llm.bind(preferences=ann) | StrOutputParser(),
    ben=prompt | llm.bind(preferences=ben) | StrOutputParser(),
)
for name, answer in both.invoke({"question": "do leaves fall in autumn"}).items():  # both searches run at once
    print(f"{name}: {answer!r}")

# The trace has every part, also those that a user doesn't weigh.
message = llm.invoke("Why is the sea salty?", preferences=ann, budget=6)
print({name: round(value, 2) for name, value in message.response_metadata["aisp"]["parts"].items()})

# A name that no part has is an error, and not a wish that nobody hears.
try:
    llm.invoke("Why is the sea salty?", preferences={"funny": 1.0})
except ConfigurationError as error:
    print(error)
