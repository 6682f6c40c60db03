"""How the default search works: its derivation, and each of its parts at work.

Run it with `python cookbook/12_how_the_search_works.py`; it takes under a minute on two cores.

What is wanted is the model's own answer, tilted towards the reward r, with p the model and lambda how much counts:

    q*(y)  proportional to  p(y) exp(r(y)/lambda)

Adaptive importance sampling draws from a proposal, weighs what was drawn by q*/proposal, and moves the proposal to
where the weight is. In pre-logit space the proposal is a shift of z_t, the vector that enters the LM head, and what one
would like to know is the optimal feedback, E[shift | the tokens so far] under q*. Two facts make it cheap.

1. Behind a prefix that was visited, the answer is known: go on as the good answers went on. So a new answer keeps a
   prefix of a good one (parent j weighs exp(r_j/lambda), lambda such that two parents are effective), and is drawn anew
   behind a cut. Where the model was sure there is nothing else to draw, and where many tries failed there is little to
   gain. So cuts are made in proportion to the entropy of the token that was taken there, and to the improvement that is
   expected: rewards count as a Gaussian process on the tree of answers, in which two answers have in common what they
   moved by until they parted. What was tried behind a prefix is not tried again: the first new
   token is none of those that earlier answers have there. What is kept costs no forward pass. The more rewards tie for
   best the less they tell, and the more answers are plain samples, without those that are there already and rather
   where little was tried: all of them where all are tied. So it is too where few tokens decide and most were tried.

2. Behind any other prefix, what is known is which tokens go with reward. Let b = sum_t W[y_t] be the bag of an answer,
   W[y] being token y's row of the LM head, and fit r = a + s . b by ridge regression to all answers so far. For such
   a reward the tilted law is exact:

       p(y) exp(r(y)/lambda) = product over t of p(y_t | y_<t) exp(s . W[y_t]/lambda),

   and a factor exp(u . W[y]) is what the shift z_t + u does to the logits. So the best open-loop control is one
   vector, u = s/lambda. Its strength is set in nats: 16 an answer for a reward that is all linear, and no more than the
   parents' entropy (what the model has by heart only stutters when it is pushed), times the share of the reward's
   variance that the fit predicts out of sample; a reward that isn't linear in tokens is left to 1. What the tilt really
   costs is measured along each answer, as KL to the base model, and corrects those that come after it.

There are no rounds. Sixteen answers are in the making at once; each that ends is scored, and the next one starts.
And there is a guard: an answer that repeats itself more than the model's plain samples do, or that holds a passage
which is less or more surprising than any of theirs, is neither returned nor gone on from.

Both are indifferent to the reward's scale and shift, and every response's probability under the proposal is known, so
that the search also yields an estimate of q* (`aisp.tilted_estimate`).
"""

import numpy as np

import aisp
from aisp.rewards import Length, Sentiment

reward = Sentiment(measure="balance") + 0.5 * Length(15, 35)
options = {"rewards": reward, "budget": 32, "num_samples": 8, "max_tokens": 32, "seed": 1}
ask = "Tell me how your holiday by the sea was."

# The whole, and with parts taken out: without the tilt, and without restarts (which is best-of-n).
searches = {
    "restart and tilt": aisp.align(ask, **options),
    "restart alone": aisp.align(ask, **options, strategy="tilted_restart", strategy_options={"tilt_nats": 0}),
    "neither": aisp.align(ask, **options, strategy="best_of_n"),
}
for name, alignment in searches.items():
    means = ", ".join(f"{round_.mean_reward:.2f}" for round_ in alignment.rounds)
    cost = alignment.cost.forward_tokens
    print(f"{name:17s} best {alignment.best.reward:.3f}, mean reward, eight at a time {means}; {cost} forward tokens")

found = searches["restart and tilt"]
print(f"\n{found.text}\n")

# What was kept of earlier answers, and what the tilt cost in nats along an answer.
for round_ in found.rounds:
    kept = [response.rollout.kept_tokens for response in round_.responses]
    nats = np.mean([response.kl_to_base for response in round_.responses])
    print(f"round {round_.index}: kept {kept} tokens, {nats:.2f} nats from the base model")

# The tilted distribution itself. A restart is so much likelier under the proposal than under the model that it weighs
# little, so the effective sample size tells how far such an estimate can be trusted: here no further than that.
for name in ("restart and tilt", "neither"):
    estimate = aisp.tilted_estimate(searches[name], reward_temperature=0.5)
    print(f"{name:17s} E[r] under q* {estimate.mean_reward:.2f}, from {estimate.ess:.1f} effective of 32 responses")
