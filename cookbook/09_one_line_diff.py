"""Put ours where a standard chat model stood: one line of the program changes, and every way of calling it stays.

Run it with `python cookbook/09_one_line_diff.py`; it takes under a minute on two cores.
"""

import asyncio

from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder

from aisp.rewards import Length, Regex
from aisp_langchain import AISPChatModel

prompt = ChatPromptTemplate.from_messages(
    [
        ("system", "You greet the visitors of a museum. Answer in one short sentence."),
        MessagesPlaceholder("history"),
        ("human", "{question}"),
    ]
)
history = [HumanMessage("Hello, I am Mia."), AIMessage("Welcome, Mia!")]


async def program(llm: BaseChatModel) -> None:
    """All of an application; it knows nothing of which model it is given."""
    chain = prompt | llm | StrOutputParser()
    print(" invoke:", chain.invoke({"history": history, "question": "I have been here before."}))
    questions = [{"history": [], "question": text} for text in ("I am here with my son.", "It is raining outside!")]
    print(" batch: ", chain.batch(questions))
    print(" stream:", " | ".join(chain.stream(questions[0])))
    print(" async: ", await asyncio.gather(*(chain.ainvoke(question) for question in questions)))


# What a greeting should be: one sentence of at most 16 words that comes to its end. A model of 135M parameters knows
# little, and a reward for the form of what it says makes it no wiser.
one_sentence = Length(4, 16) + Regex(r"^[^.!?]+[.!?]\s*\Z", name="one_sentence")

print("before")
llm = FakeListChatModel(responses=["Welcome back, Mia!", "How nice, come in!", "Come in and get dry!"])
asyncio.run(program(llm))

print("after")
llm = AISPChatModel(
    model="smollm2-135m", dtype="float32", max_tokens=28, seed=1, rewards=one_sentence, budget=6, target_reward=2.0
)
asyncio.run(program(llm))

# What the program needn't know is there all the same.
message = llm.invoke("Who painted the Mona Lisa?")
print(
    {key: message.response_metadata["aisp"][key] for key in ("reward", "parts", "stopped_by")}, message.usage_metadata
)
