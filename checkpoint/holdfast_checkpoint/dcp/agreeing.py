"""What all ranks of a save do alike about their machines' agents: decided by one, from what each is told by its own."""

from collections.abc import Sequence
from dataclasses import dataclass

from holdfast_checkpoint.agent_messages import Named, Seen
from holdfast_checkpoint.folders import parts_of


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentView:
    """Of one rank: the saves that its agent knows to be whole, oldest first; whether they are copied in time."""

    saves: tuple[Seen, ...]
    is_copying: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Handing:
    """`is_kept`: agents take the save over. `kept`: of those before, the one that none of them may give up yet; None:
    no agent knows of any. `newest`: the greatest generation that any knows. `without`: how many ranks have no agent."""

    is_kept: bool
    kept: Named | None
    newest: int
    without: int


def agreed(views: Sequence[object]) -> Handing:
    """By rank, its AgentView; anything else: it has no agent.

    All or none hand over: a save of which a part is missing is of no use. The newest that any agent has seen safe is
    kept; where none is, or copies are not made, the newest that any has seen whole: what agents go by are facts in the
    store, which one of them may not have heard of yet, and none has made up.
    """
    known = [view for view in views if isinstance(view, AgentView)]
    newest = max((save.generation for view in known for save in view.saves), default=0)
    without = len(views) - len(known)
    if without or not known:
        return Handing(is_kept=False, kept=None, newest=newest, without=without)
    whole = {save.named for view in known for save in view.saves}
    safe = {save.named for view in known for save in view.saves if save.is_safe}
    kept = safe if safe and all(view.is_copying for view in known) else whole
    return Handing(is_kept=True, kept=max(kept, default=None), newest=newest, without=0)


def chosen_folder(own: str, offered: Sequence[object]) -> str:
    """Of a load, which checkpoint all ranks take. `own`: the coordinator's choice; `offered`: by rank, the folders that
    it can read, its own choice first.

    Another one than the coordinator's only where some rank cannot read that: the newest that all can.
    """
    lists = [folders for folders in offered if isinstance(folders, tuple)]
    if all(own in folders for folders in lists) or not lists:
        return own
    common = set.intersection(*(set(folders) for folders in lists))
    return max(common, default=own, key=lambda folder: parts_of(folder)[:2])
