"""Swap the model in an existing chain: one line changes, the prompt and the parser stay.

Run it with `python cookbook/02_swap_the_model_in_a_chain.py`; it takes under a minute on two cores.
"""

from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from aisp_langchain import AISPChatModel

prompt = ChatPromptTemplate.from_messages(
    [("system", "You answer customers of a small bakery."), ("human", "{question}")]
)


# What a good answer is, as a plain function of the message: short, and with an invitation to come by.
def inviting(outputs: AIMessage) -> float:
    words = outputs.text.split()
    return ("visit" in outputs.text.lower() or "welcome" in outputs.text.lower()) - max(0, len(words) - 25) / 25


# before: llm = ChatOpenAI(model="...", max_tokens=40)
llm = AISPChatModel(model="smollm2-135m", max_tokens=32, rewards=inviting, budget=6, target_reward=1.0, seed=5)

chain = prompt | llm | StrOutputParser()
print(chain.invoke({"question": "Do you have rye bread?"}))

# The rest of the interface is the one that you know: batch, stream, async, and settings per call.
for answer in chain.batch([{"question": "When do you open?"}, {"question": "Can I order a cake?"}]):
    print("-", answer)

message = llm.invoke("Do you have rye bread?", budget=2)
print(message.usage_metadata)
print({key: message.response_metadata["aisp"][key] for key in ("reward", "stopped_by", "budget")})
