"""Steer by a classifier, behind a veto that costs nothing: what the rule refuses is never classified nor returned.

Run it with `python cookbook/05_classifier_with_a_veto.py [FOLDER]`; it takes under a minute on two cores. FOLDER is any
sequence classifier of transformers; its last label counts. Without one, the recipe trains a small classifier of its own
on the sentences below, over the word vectors of the language model.
"""

import sys

import torch
from transformers import BertConfig, BertForSequenceClassification

import aisp
from aisp.models import load
from aisp.rewards import Avoids, Classifier, Regex, veto

MODEL = load("smollm2-135m", dtype="float32")
STIFF = """The request has been received and will be processed in due course.
Applicants are required to submit the form to the relevant department.
Pursuant to the regulations, the fee is not refundable.
The committee shall determine the schedule at its discretion.
It is recommended that the procedure be followed as specified.
Further information may be obtained from the administration.
The undersigned hereby confirms receipt of the documents.
Compliance with the policy is mandatory for all participants."""
WARM = """Hey, so good to see you, come on in and sit down!
Thanks so much, you really made my day, my friend.
Let's grab a coffee and talk about it, I'd love that.
Don't worry, we will sort it out together, I promise.
Wow, that sounds like so much fun, tell me more!
I'm so happy for you, you did a wonderful job!
Take your time, dear, and just call me if you need a hand.
We are glad you came, and we hope you feel at home here."""


def trained(sentences: list[str], labels: list[int]) -> BertForSequenceClassification:
    """Train one layer of attention and a head; the word vectors are the language model's, and stay."""
    torch.manual_seed(0)
    vectors = MODEL.model.get_input_embeddings().weight
    config = BertConfig(
        vocab_size=vectors.shape[0],
        hidden_size=vectors.shape[1],
        num_hidden_layers=1,
        num_attention_heads=9,
        intermediate_size=256,
        id2label={0: "stiff", 1: "warm"},
        label2id={"stiff": 0, "warm": 1},
    )
    model = BertForSequenceClassification(config)
    model.bert.embeddings.word_embeddings.weight.data.copy_(vectors)
    model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    batch = MODEL.tokenizer(sentences, padding=True, return_tensors="pt")
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=3e-4)
    for _ in range(8):  # enough for these few sentences; more would only make it surer of itself
        loss = model(**inputs, labels=torch.tensor(labels)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"trained on {len(labels)} sentences to a loss of {loss:.3f}")
    return model.eval()


if len(sys.argv) > 1:
    warm = Classifier(sys.argv[1], name="warm")
else:
    stiff_lines, warm_lines = STIFF.splitlines(), WARM.splitlines()
    model = trained(stiff_lines + warm_lines, [0] * len(stiff_lines) + [1] * len(warm_lines))
    warm = Classifier(model, tokenizer=MODEL.tokenizer, label="warm", name="warm")

# The gates are rules: cheap, so they run first, and what they close is not classified. A rule is kept or not,
# so that one of these words is one too many. The second gate is there because a
# classifier of sixteen sentences has never seen a row of digits, and may well find it warm.
no_apology = Avoids("sorry", "apologize", "afraid", name="no_apology")
reward = warm + veto(no_apology) + veto(Regex(r"^\D*$", name="no_digits"))

alignment = aisp.align(
    "A guest arrives at our hotel late at night, tired and hungry. What do you say?",
    rewards=reward,
    model=MODEL,
    budget=24,
    num_samples=8,
    max_tokens=32,
    temperature=0.7,
    seed=1,
)
responses = list(alignment.responses)
vetoed = [response for response in responses if response.score.vetoed]
print(f"{len(responses)} answers, of them {len(vetoed)} vetoed")
for response in vetoed[:2]:
    print(f"  vetoed {dict(response.score.parts)}: {response.text[:70]!r}")
usable = sorted((r for r in responses if r.score.usable), key=lambda r: r.reward)
for name, response in (("least", usable[0]), ("most", usable[-1])):
    print(f"  {name} warm {response.score.parts['warm']:+.2f}: {response.text!r}")
