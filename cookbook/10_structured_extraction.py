"""Extract an object from a text, and choose the one whose fields are really in the text.

Run it with `python cookbook/10_structured_extraction.py`; it needs the extra `grammar` and takes under a minute on two
cores. Decoding is held to the schema, so that the plain answer is an object too; but a small model makes fields up.
"""

from typing import Any

from langchain_core.messages import BaseMessage
from pydantic import BaseModel, Field

from aisp_langchain import AISPChatModel


class Order(BaseModel):
    """An order."""

    customer: str = Field(min_length=2, max_length=20)
    item: str = Field(min_length=2, max_length=20)
    count: int


# A reward sees the parsed structure, as it sees tool calls. Here: the share of its words that the mail holds.
def found_in_mail(inputs: list[BaseMessage], structure: dict[str, Any] | None) -> float:
    if structure is None:
        return 0.0
    mail = inputs[-1].text.lower()
    words = [word for value in structure.values() for word in str(value).lower().split()]
    return sum(word in mail for word in words) / len(words)


plain = AISPChatModel(model="smollm2-135m", dtype="float32", max_tokens=48, temperature=0)
steered = AISPChatModel(
    model="smollm2-135m",
    dtype="float32",
    max_tokens=48,
    seed=1,
    rewards=found_in_mail,
    budget=8,
    num_samples=4,
    target_reward=1.0,
)
MAILS = [
    "Dear baker, this is Amara Diallo. Please put aside 12 poppy rolls for Saturday.",
    "Good morning, I'd like to order 3 apple cakes. Regards, Tomek Nowak",
]
for mail in MAILS:
    print(mail)
    for name, llm in (("plain", plain), ("steered", steered)):
        order = llm.with_structured_output(Order).invoke(f"What does this customer order?\n\n{mail}")
        print(f"  {name:8s}{order!r}")
