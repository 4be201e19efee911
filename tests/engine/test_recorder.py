"""The recorder alone, on programs of a few lines."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import pytest
import torch
from torch import Tensor

from fastiseat import UserError
from fastiseat.engine.recording.recorder import MOST_RECORDINGS, Recorder, Tensors, UnrecordableError, World
from fastiseat.engine.recording.tape import Tape

CPU = torch.device("cpu")


def world(
    *persistent: Tensor, state: Callable[[], Hashable] = lambda: None, resident: tuple[Tensor, ...] = ()
) -> World:
    return World(
        device=CPU,
        persistent=lambda: persistent,
        changing=lambda: persistent,
        state=state,
        remember=lambda: lambda: None,
        resident=resident,
    )


def accumulate(total: Tensor) -> Callable[[Tensors], dict[str, Tensor]]:
    def program(inputs: Tensors) -> dict[str, Tensor]:
        total.add_(inputs["x"].sum())
        return {"total": total.clone(), "is_large": total > 5, "twice": 2 * inputs["x"]}

    return program


def test_a_replay_computes_with_what_is_there_then() -> None:
    total, recorder = torch.zeros(()), Recorder(Tape)
    found = []
    for n in range(4):
        x = torch.full((3,), float(n))
        found.append(recorder.run("sum", accumulate(total), {"x": x}, world(total)))
        x.fill_(99)
        total += 1
    assert [float(results["total"]) for results in found] == [0, 4, 11, 21]
    assert [bool(results["is_large"]) for results in found] == [False, False, True, True]
    assert [results["twice"].tolist() for results in found] == [[2.0 * n] * 3 for n in range(4)]


def test_results_have_their_shapes_and_dtypes() -> None:
    def program(inputs: Tensors) -> dict[str, Tensor]:
        x = inputs["x"]
        return {"a": x.mean(), "b": x > 0, "c": x.t() + 1, "d": x.argmax(), "e": x[:0], "f": x.double().sum(0)}

    x = torch.randn(2, 3)
    found = Recorder(Tape).run(0, program, {"x": x}, world())
    for name, expected in program({"x": x}).items():
        assert (found[name].shape, found[name].dtype) == (expected.shape, expected.dtype)
        assert torch.equal(found[name], expected)


@pytest.mark.parametrize(
    "other",
    [torch.ones(4), torch.ones(3, dtype=torch.float64), torch.ones(1).expand(3), torch.ones(6)[::2]],
    ids=["shape", "dtype", "expanded", "strided"],
)
def test_inputs_of_another_kind_are_recorded_apart(other: Tensor) -> None:
    total, recorder = torch.zeros(()), Recorder(Tape)
    for x in (torch.ones(3), other, torch.ones(3), other):
        recorder.run(0, accumulate(total), {"x": x}, world(total))
    assert len(recorder._recordings) == 2
    assert float(total) == 6 + 2 * len(other)


def test_recordings_are_told_apart_by_key_and_by_resident_memory() -> None:
    a, b, recorder = torch.ones(5), torch.full((5,), 2.0), Recorder(Tape)
    rows = torch.tensor([0, 2])
    for resident in (a, b, a):
        program = lambda inputs, images=resident: {"sum": images.index_select(0, inputs["rows"]).sum()}  # noqa: E731
        found = recorder.run(0, program, {"rows": rows}, world(resident=(resident,)))
        assert float(found["sum"]) == 2 * resident[0]
    a.fill_(7)
    program = lambda inputs: {"sum": a.index_select(0, inputs["rows"]).sum()}  # noqa: E731
    assert float(recorder.run(0, program, {"rows": rows}, world(resident=(a,)))["sum"]) == 14
    assert len(recorder._recordings) == 2
    recorder.run(1, program, {"rows": rows}, world(resident=(a,)))
    assert len(recorder._recordings) == 3


def test_the_first_recorded_is_the_first_dropped() -> None:
    total, recorder = torch.zeros(()), Recorder(Tape)
    for key in range(MOST_RECORDINGS + 1):
        recorder.run(key, accumulate(total), {"x": torch.ones(1)}, world(total))
    assert [key[0] for key in recorder._recordings] == list(range(1, MOST_RECORDINGS + 1))


def test_memory_of_the_last_replay_is_no_value() -> None:
    """What is read before it is written is NaN at each replay, not what the last one left there."""

    def program(inputs: Tensors) -> dict[str, Tensor]:
        left = torch.empty(3)
        result = inputs["x"] + left
        left.copy_(inputs["x"])
        return {"result": result}

    recorder = Recorder(Tape)
    for _ in range(3):
        assert recorder.run(0, program, {"x": torch.ones(3)}, world())["result"].isnan().all()


def test_a_tensor_kept_from_the_warm_up_is_refused() -> None:
    kept: list[Tensor] = []

    def program(inputs: Tensors) -> dict[str, Tensor]:
        if not kept:
            kept.append(inputs["x"] * 2)
        return {"result": kept[0] + 1}

    with pytest.raises(UnrecordableError, match="neither persistent nor made by the step"):
        Recorder(Tape).run(0, program, {"x": torch.ones(3)}, world())


def test_a_failed_recording_puts_everything_back() -> None:
    total, calls, put_back = torch.zeros(3), [], []

    def program(inputs: Tensors) -> dict[str, Tensor]:
        total.add_(1)
        calls.append(1)
        if len(calls) == 2:
            raise KeyError("no\nluck")
        return {"total": total.clone()}

    recorder, before = Recorder(Tape), torch.get_rng_state()
    surroundings = World(
        device=CPU,
        persistent=lambda: [total],
        changing=lambda: [total],
        state=lambda: None,
        remember=lambda: lambda: put_back.append(True),
    )
    with pytest.raises(UnrecordableError, match=r"no.*luck"):
        recorder.run(0, program, {"x": torch.ones(3)}, surroundings)
    assert not total.any()
    assert put_back == [True]
    assert not recorder._recordings
    assert torch.equal(torch.get_rng_state(), before)
    assert recorder.run(0, program, {"x": torch.ones(3)}, surroundings)["total"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "error", [UserError("of the user's"), torch.OutOfMemoryError("no room"), KeyboardInterrupt()]
)
def test_errors_that_say_enough_pass_through(error: BaseException) -> None:
    def program(inputs: Tensors) -> dict[str, Tensor]:
        raise error

    with pytest.raises(type(error)):
        Recorder(Tape).run(0, program, {"x": torch.ones(3)}, world())
    assert torch.ones(2).tolist() == [1, 1]  # nothing is recorded any more


def test_other_recordings_make_room() -> None:
    """Memory that runs out is first taken from them."""
    total, recorder, calls = torch.zeros(()), Recorder(Tape), []
    honest = accumulate(total)

    def greedy(inputs: Tensors) -> dict[str, Tensor]:
        calls.append(len(recorder._recordings))
        if calls[-1]:
            raise torch.OutOfMemoryError("no room")
        return honest(inputs)

    for key in range(2):
        recorder.run(key, honest, {"x": torch.ones(1)}, world(total))
    recorder.run("greedy", greedy, {"x": torch.ones(1)}, world(total))
    assert float(total) == 3
    assert [key[0] for key in recorder._recordings] == ["greedy"]
    assert calls == [2, 0, 0]


def test_random_numbers_are_drawn_anew_and_the_callers_left_alone() -> None:
    def program(inputs: Tensors) -> dict[str, Tensor]:
        return {"drawn": inputs["x"] + torch.rand(3)}

    recorder, before = Recorder(Tape), torch.get_rng_state()
    drawn = [recorder.run(0, program, {"x": torch.zeros(3)}, world(), seed=seed)["drawn"] for seed in (1, 2, 1)]
    assert torch.equal(drawn[0], torch.rand(3, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_state_that_each_call_changes_is_refused() -> None:
    state: list[int] = []

    def program(inputs: Tensors) -> dict[str, Tensor]:
        state.append(1)
        return {"x": inputs["x"] + 1}

    with pytest.raises(UnrecordableError, match="attributes are other ones"):
        Recorder(Tape).run(0, program, {"x": torch.ones(3)}, world(state=lambda: len(state)))
