"""The examples: their specs load, their Programs hold together, and they are as large as they say."""

from pathlib import Path

import pytest

from holdfast.model.facts import ProgramFacts
from holdfast.program import Program, load_program
from holdfast.spec import JobSpec, load_spec
from holdfast.worker.facts import inspect

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(spec_path: str, **params: object) -> tuple[JobSpec, Program, ProgramFacts]:
    path = EXAMPLES / spec_path
    spec = load_spec(path, {f"program.params.{name}": value for name, value in params.items()})
    program = load_program(spec.program.entry, dict(spec.program.params), path.parent)
    return spec, program, inspect(program)


@pytest.mark.parametrize(
    ("spec_path", "layers", "param_count"),
    [("gpt/tiny.yaml", 10, 943_296), ("gpt/small.yaml", 10, 10_046_080), ("vision/digits.yaml", 6, 76_938)],
)
def test_an_example_holds_together_and_has_the_size_it_states(spec_path: str, layers: int, param_count: int) -> None:
    spec, program, facts = load(spec_path)

    assert len(facts.layers) == layers
    assert facts.param_count == param_count
    assert program.blocks(spec.block) == 8
    assert spec.nodes.min == 1


def test_a_job_on_tiny_consumes_no_sample_twice() -> None:
    spec, program, facts = load("gpt/tiny.yaml")

    assert spec.steps * program.global_batch < facts.dataset_size


def test_the_gpt_can_tie_its_embedding_to_its_head() -> None:
    _, program, _ = load("gpt/tiny.yaml", tied=True)

    assert [(tie.a, tie.b) for tie in program.tied] == [("embed.tokens.weight", "head.logits.weight")]


def test_the_vision_example_passes_a_tuple_with_an_integer_tensor() -> None:
    _, _, facts = load("vision/digits.yaml")

    assert str(facts.layers[0].output) == "a tuple (float32[8, 32, 8, 8], int64[8])"


def test_the_gpts_corpus_is_the_same_each_time() -> None:
    _, program, _ = load("gpt/tiny.yaml")
    _, again, _ = load("gpt/tiny.yaml", blocks=1)

    assert len(program.dataset) == len(again.dataset) > 10_000
    last = len(program.dataset) - 1
    assert all((program.dataset[i][0] == again.dataset[i][0]).all() for i in (0, last // 2, last))
