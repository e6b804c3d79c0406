"""From which step a generation starts."""

from random import Random

from holdfast.control.recovery import (
    Basis,
    Lasting,
    Lineage,
    LostLayers,
    Stored,
    choose_basis,
    extend_lineage,
    is_history,
    lasting_in_ram,
)
from holdfast.model.ids import NodeId, SlotId, WorkerId
from holdfast.model.records import CheckpointRef, Commit, SlotInventory, SnapshotInventory, Version

LAYERS = 4
ALL = (0, 1, 2, 3)


def slot(name: str) -> SlotId:
    return SlotId(NodeId(name), 0)


def commit(step: int, loss: float = 0.5) -> Commit:
    return Commit(step=step, loss=loss, grad_norm=None, time_s=0.0)


def holds(
    name: str,
    layers: tuple[int, ...],
    version: tuple[int, int] | None,
    *,
    pending: tuple[int, int] | None = None,
    in_flight: bool = False,
    commits: tuple[Commit, ...] | None = None,
) -> SlotInventory:
    """What one slot holds; who is at step k has the commit that led there, unless `commits` says otherwise."""
    if commits is None:
        commits = (commit(version[0]),) if version is not None and version[0] else ()
    return SlotInventory(
        slot=slot(name),
        worker=WorkerId(name),
        layers=layers,
        version=Version(*version) if version is not None else None,
        pending=Version(*pending) if pending is not None else None,
        in_flight=in_flight,
        commits=commits,
    )


def basis_of(
    *inventories: SlotInventory, lineage: Lineage = (), committed: int = 0, told: tuple[int, int] | None = None
) -> Basis:
    """`told`: step and generation of a commit that is known from the store."""
    known = {told[1]: commit(told[0])} if told is not None else {}
    basis = choose_basis(inventories, lineage, LAYERS, committed, known)
    assert isinstance(basis, Basis), basis
    return basis


def lost_of(*inventories: SlotInventory, lineage: Lineage = (), committed: int = 0) -> LostLayers:
    lost = choose_basis(inventories, lineage, LAYERS, committed)
    assert isinstance(lost, LostLayers), lost
    return lost


def test_a_job_that_has_not_begun_is_initialised() -> None:
    basis = basis_of(holds("a", (), None), holds("b", (), None))

    assert basis.version == Version(0, 0)
    assert basis.initialise
    assert not basis.held
    assert basis.redone_steps == 0


def test_initial_layers_that_survived_are_kept_and_the_others_made_anew() -> None:
    basis = basis_of(holds("a", (0, 1), (0, 0), in_flight=True), holds("b", (), None))

    assert basis.initialise
    assert basis.held == {slot("a"): frozenset({0, 1})}
    assert basis.redone_steps == 1


def test_the_newest_step_that_all_layers_are_found_at_is_taken() -> None:
    basis = basis_of(holds("a", (0, 1), (7, 2)), holds("b", (2, 3), (7, 2)), holds("spare", ALL, (4, 1)), committed=7)

    assert basis.version == Version(7, 2)
    assert basis.held == {slot("a"): frozenset({0, 1}), slot("b"): frozenset({2, 3})}
    assert basis.redone_steps == 0
    assert not basis.initialise


def test_an_older_step_is_taken_where_a_newer_one_is_not_whole() -> None:
    basis = basis_of(holds("a", (0, 1), (7, 2)), holds("spare", ALL, (4, 1)), committed=7)

    assert basis.version == Version(4, 1)
    assert basis.redone_steps == 3


def test_who_missed_the_result_of_a_vote_rolls_forward_if_anyone_has_it() -> None:
    basis = basis_of(
        holds("a", (0, 1), (7, 2), commits=(commit(6), commit(7, loss=0.25))),
        holds("b", (2, 3), (6, 2), pending=(7, 2), in_flight=True),
        committed=6,
    )

    assert basis.version == Version(7, 2)
    assert basis.roll_forward == commit(7, loss=0.25)
    assert basis.held[slot("b")] == frozenset({2, 3})
    assert basis.redone_steps == 0


def test_a_vote_whose_result_nobody_has_is_discarded_and_its_step_redone() -> None:
    basis = basis_of(
        holds("a", (0, 1), (6, 2), pending=(7, 2), in_flight=True),
        holds("b", (2, 3), (6, 2), in_flight=True),
        committed=6,
    )

    assert basis.version == Version(6, 2)
    assert basis.redone_steps == 1


def test_a_step_that_only_the_dead_had_committed_rolls_forward_if_they_told_of_it() -> None:
    survivors = (holds("a", (0, 1), (6, 2), pending=(7, 2)), holds("b", (2, 3), (6, 2), pending=(7, 2)))

    basis = basis_of(*survivors, committed=7, told=(7, 2))

    assert basis.version == Version(7, 2)
    assert basis.roll_forward == commit(7)
    assert basis.redone_steps == 0


def test_what_was_told_of_another_generation_does_not_roll_forward() -> None:
    survivors = (holds("a", (0, 1), (6, 2), pending=(7, 2)), holds("b", (2, 3), (6, 2), pending=(7, 2)))

    assert basis_of(*survivors, committed=7, told=(7, 1)).version == Version(6, 2)
    assert basis_of(*survivors, committed=6, told=(6, 2)).version == Version(6, 2)


def test_a_told_step_is_not_taken_where_its_gradients_are_not_whole() -> None:
    basis = basis_of(holds("a", (0, 1), (6, 2), pending=(7, 2)), holds("b", (2, 3), (6, 2)), committed=7, told=(7, 2))

    assert basis.version == Version(6, 2)
    assert basis.redone_steps == 1


def test_the_first_step_is_redone_where_only_the_dead_had_committed_it() -> None:
    """Found by the simulation: every survivor was alive and at step 0, and the job failed."""
    basis = basis_of(holds("a", ALL, (0, 0), pending=(1, 1), in_flight=True), committed=1)

    assert basis.version == Version(0, 0)
    assert basis.redone_steps == 1
    assert basis_of(holds("a", (0, 1), (0, 0)), committed=1).initialise


def test_a_job_that_is_well_on_its_way_is_not_begun_anew() -> None:
    assert lost_of(holds("fresh", (), None), committed=5).layers == ALL
    assert lost_of(holds("spare", (0, 1), (0, 0)), committed=5).layers == (2, 3)
    assert lost_of(holds("fresh", (), None), committed=1).layers == ALL


def test_lost_layers_are_named_with_the_newest_step_that_anything_is_left_of() -> None:
    lost = lost_of(holds("a", (0, 2), (7, 2)), holds("b", (2, 3), (5, 1)), committed=7)

    assert lost.version == Version(7, 2)
    assert lost.layers == (1, 3)


def test_a_version_that_a_later_generation_went_back_behind_is_no_history() -> None:
    lineage: Lineage = ((4, 6),)  # generation 4 started from step 6

    assert is_history(Version(6, 3), lineage)
    assert not is_history(Version(7, 3), lineage)
    assert is_history(Version(9, 4), lineage)


def test_a_fork_is_never_taken_up_again_even_if_it_is_newer() -> None:
    """With reduction allreduce the two step 7s have different bits, so they must not be mixed."""
    basis = basis_of(
        holds("thawed", ALL, (7, 3)),
        holds("a", (0, 1), (6, 4)),
        holds("b", (2, 3), (6, 4)),
        lineage=((4, 5),),
        committed=7,
    )

    assert basis.version == Version(6, 4)
    assert slot("thawed") not in basis.held


def test_the_commit_of_a_fork_is_not_taken_for_that_of_the_history() -> None:
    """Found by the simulation: who had committed step 7 twice, in two generations, gave the first of the two."""
    basis = basis_of(
        holds("a", ALL, (7, 4), commits=(commit(6), commit(7, loss=0.1), commit(7, loss=0.9))),
        holds("b", ALL, (6, 3), pending=(7, 4)),
        lineage=((4, 6),),
    )

    assert basis.roll_forward == commit(7, loss=0.9)


def test_a_told_fork_does_not_roll_forward() -> None:
    inventories = (holds("a", ALL, (6, 3), pending=(7, 3)), holds("b", ALL, (6, 4)))

    assert basis_of(*inventories, lineage=((4, 6),), committed=7, told=(7, 3)).version == Version(6, 4)


def test_the_lineage_keeps_only_what_still_says_something() -> None:
    lineage: Lineage = ()
    for generation, start in ((1, 0), (2, 5), (3, 5), (4, 3), (5, 8)):
        lineage = extend_lineage(lineage, generation, start)

    assert lineage == ((1, 0), (4, 3), (5, 8))


def test_a_lineage_stays_bounded_and_never_takes_back_what_it_refused() -> None:
    rng = Random(5)
    lineage: Lineage = ()
    whole: Lineage = ()
    step = 0
    for number in range(1, 5000):
        step += rng.randint(1, 3)
        lineage = extend_lineage(lineage, number, step)
        whole = (*whole, (number, step))
        assert len(lineage) <= 1000
        assert lineage[-1] == (number, step)
        assert is_history(Version(step, number - 1), lineage), "what the members hold"
    assert list(lineage) == sorted(lineage)
    for _ in range(2000):
        version = Version(rng.randint(0, step + 3), rng.randint(0, 5000))
        assert is_history(version, whole) or not is_history(version, lineage)


def in_ram(**nodes: tuple[tuple[int, int], tuple[int, ...]]) -> dict[NodeId, tuple[SnapshotInventory, ...]]:
    """By node: a version, and the layers of it that its agent has."""
    return {
        NodeId(node): (SnapshotInventory(version=Version(*version), layers=layers),)
        for node, (version, layers) in nodes.items()
    }


def test_what_workers_lack_is_taken_from_agents_ram() -> None:
    stored = Stored(snapshots=in_ram(a=((7, 2), (2,)), c=((7, 2), (2, 3))))
    basis = choose_basis((holds("a", (0, 1), (7, 2)), holds("b", (), None)), (), LAYERS, 7, stored=stored)

    assert isinstance(basis, Basis)
    assert basis.version == Version(7, 2)
    assert basis.in_ram == {2: (NodeId("a"), NodeId("c")), 3: (NodeId("c"),)}


def test_a_version_whole_in_ram_beats_an_older_live_one_and_every_checkpoint() -> None:
    old = CheckpointRef(version=Version(6, 1), folder="six")
    stored = Stored(snapshots=in_ram(a=((7, 2), ALL)), checkpoints=(old,))
    basis = choose_basis((holds("a", ALL, (5, 1)),), (), LAYERS, 8, stored=stored)

    assert isinstance(basis, Basis)
    assert (basis.version, basis.checkpoint, basis.redone_steps) == (Version(7, 2), "", 1)
    assert not basis.held


def test_a_checkpoint_is_the_last_resort_and_a_job_that_begins_starts_from_it() -> None:
    refs = (CheckpointRef(version=Version(4, 0), folder="four"), CheckpointRef(version=Version(6, 0), folder="six"))
    stored = Stored(snapshots=in_ram(a=((7, 1), (0, 1))), checkpoints=refs)
    for inventories in ((holds("a", (0, 1), (7, 1)),), (holds("a", (), None),)):
        basis = choose_basis(inventories, (), LAYERS, 0, stored=stored)

        assert isinstance(basis, Basis)
        assert (basis.version, basis.checkpoint, basis.initialise) == (Version(6, 0), "six", False)


def test_snapshots_of_a_history_that_was_left_are_not_gone_back_to() -> None:
    stored = Stored(snapshots=in_ram(a=((9, 1), ALL), b=((6, 1), ALL)))

    basis = choose_basis((holds("a", (), None),), ((2, 7),), LAYERS, 9, stored=stored)

    assert isinstance(basis, Basis)
    assert basis.version == Version(6, 1)


def test_the_kept_version_is_the_newest_that_ram_alone_has_whole() -> None:
    snapshots = in_ram(a=((8, 1), (0, 1)), b=((8, 1), (2,)), c=((7, 1), ALL), d=((5, 1), ALL))

    started = Version(7, 1)
    assert lasting_in_ram(Stored(snapshots=snapshots), (), LAYERS, started) == Lasting(Version(7, 1), Version(5, 1))
    assert lasting_in_ram(Stored(snapshots=snapshots), ((2, 6),), LAYERS, Version(6, 1)) == Lasting(Version(5, 1), None)
    assert lasting_in_ram(Stored(), (), LAYERS, started) == Lasting(None, None)
