"""The public names, exactly."""

from __future__ import annotations

import aisp
import aisp.bench.rivals
import aisp.engines
import aisp.forms
import aisp.models
import aisp.rewards
import aisp.strategies
import aisp_langchain
import aisp_langchain.rewards
import aisp_llamaindex


def test_names():
    assert sorted(aisp.__all__) == [
        "Alignment",
        "AsyncRun",
        "Response",
        "Round",
        "Run",
        "SearchSettings",
        "Service",
        "TextStream",
        "TiltedEstimate",
        "__version__",
        "aalign",
        "align",
        "stream",
        "tilted_estimate",
    ]
    assert sorted(aisp.bench.rivals.__all__) == [
        "Best",
        "Blockwise",
        "MISVO",
        "Pessimism",
        "Pessimistic",
        "QAlign",
        "RULES",
        "Selection",
        "SoftBest",
        "SoftBestOfN",
        "choose",
    ]
    assert sorted(aisp.strategies.__all__) == [
        "AISP",
        "BestOfN",
        "Info",
        "SearchContext",
        "Strategy",
        "TiltedRestart",
    ]
    assert sorted(aisp.engines.__all__) == ["Engine", "Finished", "Flight", "Progress", "engine_for"]
    assert sorted(aisp.forms.__all__) == [
        "Form",
        "ResponseFormat",
        "Tool",
        "make_form",
        "read_choice",
        "read_format",
        "read_tools",
    ]
    assert sorted(aisp_langchain.__all__) == ["AISPChatModel", "__version__", "as_reward"]
    assert sorted(aisp_llamaindex.__all__) == ["AISPLLM", "__version__", "as_reward"]
    assert sorted(aisp_langchain.rewards.__all__) == [
        "DecisionReward",
        "Preferences",
        "Reward",
        "RubricJudge",
        "as_reward",
        "minimum",
        "normalize",
        "product",
        "veto",
        "when",
    ]
    assert sorted(aisp.rewards.__all__) == [
        "Avoids",
        "Case",
        "Classifier",
        "Coherence",
        "Contains",
        "Criterion",
        "Elements",
        "Ends",
        "Every",
        "FirstWord",
        "Frequency",
        "FunctionReward",
        "Language",
        "Length",
        "LocalJudge",
        "Matches",
        "OneOf",
        "Parts",
        "Preferences",
        "Readability",
        "Regex",
        "Remote",
        "Reward",
        "Rubric",
        "Rule",
        "Schema",
        "Sentiment",
        "Starts",
        "ValidJSON",
        "ValidPython",
        "Wrapped",
        "as_strict",
        "minimum",
        "normalize",
        "postscript",
        "product",
        "veto",
        "when",
    ]


def test_every_public_name_is_there():
    for package in (
        aisp,
        aisp.strategies,
        aisp.engines,
        aisp.forms,
        aisp.models,
        aisp.rewards,
        aisp.bench.rivals,
        aisp_langchain,
        aisp_llamaindex,
        aisp_langchain.rewards,
    ):
        for name in package.__all__:
            assert getattr(package, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(aisp, "Aligned")
