"""Answers that stay with what was retrieved: LlamaIndex's evaluators as rewards, and how they get their contexts.

An evaluator of faithfulness compares an answer with the texts that it was asked about. In a query engine those stand in
the prompt, and nothing has to be done; elsewhere a call passes them as `reference={"contexts": [...]}`.
"""

from llama_index.core.evaluation import BaseEvaluator, EvaluationResult

from aisp_llamaindex import AISPLLM

CONTEXTS = ["The oak stands by the brook. It was planted in 1876.", "The elm fell in the storm of 1987."]


class WordsOfTheContexts(BaseEvaluator):
    """Scores the share of an answer's words that the contexts hold: a judge that needs no model.

    With a model that judges, take `FaithfulnessEvaluator(llm=judge)` in its place.
    """

    def _get_prompts(self):
        return {}

    def _update_prompts(self, prompts):
        pass

    async def aevaluate(self, query=None, response=None, contexts=None, **kwargs):
        known = set(" ".join(contexts).lower().split())
        words = response.lower().split()
        return EvaluationResult(score=sum(word in known for word in words) / max(len(words), 1))


llm = AISPLLM(model="smollm2-135m", rewards=WordsOfTheContexts(), budget=8, max_tokens=24, seed=1)

# Contexts that the call passes, nodes or texts:
question = f"{CONTEXTS[0]}\n\nWhere does the oak stand?"
answer = llm.complete(question, reference={"contexts": CONTEXTS})
print(f"{answer.raw['aisp']['reward']:.2f}  {answer.text}")

# Contexts that stand in the prompt, as query engines write it:
prompt = (
    "Context information is below.\n---------------------\n" + "\n\n".join(CONTEXTS) + "\n---------------------\n"
    "Given the context information and not prior knowledge, answer the query.\nQuery: When was it planted?\nAnswer: "
)
answer = llm.complete(prompt)
print(f"{answer.raw['aisp']['reward']:.2f}  {answer.text}")
