"""From names and objects to engines."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import weakref
from dataclasses import replace

import pytest

from aisp.engines import engine_for
from aisp.engines import registry as registry_module
from aisp.engines.transformers.engine import TransformersEngine
from aisp.errors import ConfigurationError, ModelNotFoundError
from aisp.testing import FakeEngine, tiny_loaded_model, tiny_model, tiny_tokenizer


class Point:
    """An entry point of an installed package."""

    name = "canned"

    def load(self):
        return lambda rest, **options: FakeEngine([rest], **options)


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(registry_module, "entry_points", lambda group: [Point()] if group == "aisp.engines" else [])


def test_an_engine_is_returned_as_it_is():
    engine = FakeEngine()
    assert engine_for(engine) is engine
    with pytest.raises(ConfigurationError, match="an engine is used as it is, and device, dtype was given"):
        engine_for(engine, dtype="float32", device="cpu")


def test_a_loaded_model_has_one_engine_that_lives_as_long_as_it_does():
    loaded = tiny_loaded_model()
    engine = weakref.ref(engine_for(loaded))
    assert isinstance(engine(), TransformersEngine)
    gc.collect()
    assert engine_for(loaded) is engine(), "nobody held it but the registry"
    other = replace(loaded, codec=replace(loaded.codec, eos_token_ids=()))
    assert engine_for(other) is not engine()
    del loaded, other
    gc.collect()
    assert engine() is None


def test_a_model_beside_its_tokenizer_has_one_engine_while_it_is_held():
    model, tokenizer = tiny_model(), tiny_tokenizer()
    engine = engine_for((model, tokenizer))
    gc.collect()
    assert engine_for((model, tokenizer)) is engine
    assert engine_for((model, tiny_tokenizer())) is not engine
    with pytest.raises(ConfigurationError, match="tuple of 1; expected a model and its tokenizer"):
        engine_for((model,))
    with pytest.raises(ConfigurationError, match="used as it is, and dtype"):
        engine_for((model, tokenizer), dtype="float32")


def test_a_name_is_loaded_with_what_was_asked_for(tmp_path):
    tiny_model(seed=3).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    engine = engine_for(str(tmp_path), dtype="float32", device="cpu")
    assert engine_for(f"transformers:{tmp_path}", dtype="float32", device="cpu") is engine
    assert engine_for(tmp_path, dtype="float32", device="cpu") is engine
    assert engine.codec.name == str(tmp_path)
    with pytest.raises(ModelNotFoundError):
        engine_for("no-such-model")


def test_an_installed_package_brings_a_kind(installed):
    assert engine_for("canned:one two").texts == ("one two",)
    assert engine_for("canned:http://host:80/v1", seconds=3.0).seconds == 3.0


def test_a_class_or_function_of_a_module_is_a_kind_too():
    assert isinstance(engine_for("aisp.testing:FakeEngine"), FakeEngine)
    assert engine_for("tests.engines.build:canned:some text").texts == ("some text",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vlm:http://host", r"'vlm' is not a kind that is known \(canned:, transformers:\)"),
        ("no.such.module:Class", "no module of that name"),
        ("aisp.testing:NoEngine", "has no attribute 'NoEngine'"),
        ("aisp.testing:FakeClock", "made a FakeClock; expected an aisp.engines.Engine"),
    ],
)
def test_what_names_no_engine_is_said_with_what_there_is(installed, name, message):
    with pytest.raises(ConfigurationError, match=message):
        engine_for(name)


def test_importing_engines_and_models_loads_no_torch():
    heavy = "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    code = f"import sys, aisp.engines, aisp.models, aisp.testing; {heavy}"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_process_that_was_forked_off_has_engines_of_its_own():
    # A child that was forked off while a thread decoded waited for that thread, which is not there, for ever.
    code = """
        import os, signal, threading
        import aisp
        from aisp.testing import tiny_loaded_model
        model, drawing, forked = tiny_loaded_model(), threading.Event(), threading.Event()
        def hold(new_tokens):
            drawing.set()
            forked.wait(60)
        answer = lambda **more: aisp.align("q", model=model, max_tokens=4, seed=1, **more).text
        busy = threading.Thread(target=answer, kwargs={"progress": hold})
        busy.start()
        drawing.wait(60)
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            answer()
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        forked.set()
        busy.join()
        print(status)
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True, text=True, timeout=180, check=True, env=environment,
    )  # fmt: skip
    assert done.stdout.split() == ["0"]
