"""Branches of a sum that go as a whole, with the last channel of a group.

The last layer of a residual branch reads one group alone, and what it makes is added
to a stream. When the group has no channel left, that layer makes its bias at every
position: a constant vector, which the compact model adds to the stream in place of the
branch. All that only the branch reads goes with it, other groups among it.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from keras import KerasTensor

from keras_greedy.graph.axes import all_numbers
from keras_greedy.graph.branch_ends import BranchEnd, Ends
from keras_greedy.graph.calls import Call

if TYPE_CHECKING:
    # Channels import branches; branches need groups for their annotations alone.
    from keras_greedy.graph.channels import ChannelGroup, Channels

# What a call takes to go: of each set of groups, one at least without channels.
Condition: TypeAlias = frozenset[frozenset[str]]

# Of an empty set there is no such group.
NEVER: Condition = frozenset({frozenset()})
ALWAYS: Condition = frozenset()


class Branches:
    """The branches of a graph that may go.

    A branch may go when all that reads its group are ends of it, each of one group
    alone, or go with it, and in each sum another summand stays. No channels may be lost
    but those of groups that may be pruned.

    Args:
        calls: All calls in topological order.
        channels: Tensor -> axis -> `(C,)` channel numbers.
        groups: The groups that may be pruned.
        outputs: The tensors that the model returns.

    Attributes:
        ends: Name of a group that may have no channels -> the ends of its branches.
        conditions: What each call takes to go, in the order of the calls.
        of_groups: Name of a group that may go -> what that takes: those of `ends`, and
            those inside of the branches.
    """

    def __init__(
        self,
        calls: Sequence[Call],
        channels: "Channels",
        groups: "Sequence[ChannelGroup]",
        outputs: Sequence[KerasTensor],
    ):
        self._calls = calls
        self._channels = channels
        self._groups = groups
        self._outputs = {*outputs}
        self._found = Ends(calls, outputs)
        self._sizes = {group.name: group.size for group in groups}
        self.ends: dict[str, tuple[BranchEnd, ...]] = {}
        self.conditions = self._conditions()
        for group in groups:
            # A group of one channel is not measured.
            ends = self._ends_of(group) if group.size > 1 else ()
            if ends:
                self._admit(group, ends)
        self.of_groups = {}
        for group in groups:
            condition = self._condition_of(group)
            if condition != NEVER:
                self.of_groups[group.name] = condition

    def calls_gone(self, empty: Iterable[str]) -> set[int]:
        """Returns the indices of the calls that go when these groups are empty."""
        is_empty = dict.fromkeys(empty, True)
        gone = set()
        for call, condition in zip(self._calls, self.conditions, strict=True):
            if holds(condition, is_empty):
                gone.add(call.index)
        return gone

    def groups_gone(self, empty: Iterable[str]) -> set[str]:
        """Returns the names of the groups that go when these ones are empty."""
        is_empty = dict.fromkeys(empty, True)
        return {name for name, own in self.of_groups.items() if holds(own, is_empty)}

    def settled(self, widths: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the widths with 0 for all groups that go with a branch.

        Args:
            widths: Group name -> width, or an array of widths to try.
        """
        settled = dict(widths)
        is_empty = {}
        for name in self.ends:
            if name in widths and not np.all(widths[name]):
                is_empty[name] = np.equal(widths[name], 0)
        if not is_empty:
            return settled
        for name, condition in self.of_groups.items():
            width = widths.get(name, self._sizes[name])
            left = np.where(holds(condition, is_empty), 0, width)
            settled[name] = left if left.ndim else left.item()
        return settled

    def _admit(self, group: "ChannelGroup", ends: tuple[BranchEnd, ...]) -> None:
        """Lets a group have no channels, unless too much would go with it."""
        before = self.conditions
        self.ends[group.name] = ends
        self.conditions = self._conditions()
        is_right = self._keeps_summands() and self._all_go(group)
        is_right = is_right and self._keeps_other_channels()
        if not (is_right and self._keeps_every_tensor()):
            del self.ends[group.name]
            self.conditions = before

    def _keeps_summands(self) -> bool:
        """Returns whether of each sum something is left without all branches."""
        left: dict[Call, set[KerasTensor]] = {}
        for ends in self.ends.values():
            for end in ends:
                summands = left.setdefault(end.sum, {*end.sum.inputs})
                summands.discard(end.summand)
        return all(left.values())

    def _ends_of(self, group: "ChannelGroup") -> tuple[BranchEnd, ...]:
        """Returns the ends of branches that read a group, and no other."""
        ends = []
        for reader in group.consumers:
            read = self._channels[reader.inputs[0]][-1]
            end = self._found.behind(reader)
            if end is not None and np.isin(read, group.channels).all():
                ends.append(end)
        return tuple(ends)

    def _conditions(self) -> list[Condition]:
        """Returns what each call takes to go: that all go, or cease, which read it."""
        summands = {}
        for name, ends in self.ends.items():
            for end in ends:
                summands[end.sum.index, end.summand] = frozenset({name})
        conditions = [NEVER] * len(self._calls)
        for call in reversed(self._calls):
            condition = ALWAYS
            for tensor in call.outputs:
                reading = self._found.reading[tensor]
                if not reading or tensor in self._outputs:
                    condition = NEVER
                for reader in reading:
                    # A sum goes on without the summand of a group without channels.
                    instead = summands.get((reader.index, tensor), frozenset())
                    read = {own | instead for own in conditions[reader.index]}
                    condition = both(condition, read)
            conditions[call.index] = condition
        return conditions

    def _all_go(self, group: "ChannelGroup") -> bool:
        """Returns whether all that reads a group goes when it has no channels."""
        without = {group.name: True}
        return all(
            holds(self.conditions[call.index], without) for call in group.readers
        )

    def _keeps_other_channels(self) -> bool:
        """Returns whether channels go as groups only, with all that reads them."""
        may_be_lost = self._made_elsewhere()
        for group in self._groups:
            # Something makes its channels as long as something reads them.
            if implies(self._all_of(group.producers), self._all_of(group.readers)):
                may_be_lost.update(group.channels.tolist())
        model_of = {}
        for name, ends in self.ends.items():
            model_of[name] = {_model_of(end.sum) for end in ends}

        for call, condition in zip(self._calls, self.conditions, strict=True):
            if condition == NEVER:
                continue
            # A model inside the model is made whole, or not at all.
            names = frozenset[str]().union(*condition)
            if any(model_of[name] != {_model_of(call)} for name in names):
                return False
            for tensor in call.outputs:
                if not may_be_lost.issuperset(all_numbers(self._channels[tensor])):
                    return False
        return True

    def _keeps_every_tensor(self) -> bool:
        """Returns whether each tensor of a call that stays has channels on each axis.

        A part of the channels that a layer makes may be all that a tensor has.
        """
        goes = {group.name: self._condition_of(group) for group in self._groups}
        for call, names in self._of_groups_alone:
            all_go = ALWAYS
            for name in names:
                all_go = both(all_go, goes[name])
            if not implies(all_go, self.conditions[call.index]):
                return False
        return True

    @functools.cached_property
    def _of_groups_alone(self) -> list[tuple[Call, set[str]]]:
        """Returns the calls with the groups that all channels of an axis are of."""
        group_of = {}
        for group in self._groups:
            group_of.update(dict.fromkeys(group.channels.tolist(), group.name))
        found = []
        for call in self._calls:
            for tensor in call.outputs:
                for ids in self._channels[tensor].values():
                    names = {group_of.get(channel, "") for channel in ids.tolist()}
                    if "" not in names:
                        found.append((call, names))
        return found

    def _condition_of(self, group: "ChannelGroup") -> Condition:
        """Returns what it takes that a group has no channels."""
        condition = self._all_of((*group.producers, *group.readers))
        if condition == NEVER and group.name in self.ends:
            # A layer that makes it makes other channels, too.
            return frozenset({frozenset({group.name})})
        return condition

    def _made_elsewhere(self) -> set[int]:
        """Returns the channels of the inputs and of layers that stay in any case."""
        made: set[KerasTensor] = set()
        elsewhere: set[int] = set()
        for call, condition in zip(self._calls, self.conditions, strict=True):
            made.update(call.outputs)
            makes = call.rule is None or call.rule.produces
            if makes and condition == NEVER:
                for tensor in call.outputs:
                    elsewhere.update(self._channels[tensor][-1])
        for tensor, channels in self._channels.items():
            if tensor not in made:
                elsewhere.update(all_numbers(channels))
        return elsewhere

    def _all_of(self, calls: Iterable[Call]) -> Condition:
        """Returns what it takes that all of these calls go."""
        condition = ALWAYS
        for call in calls:
            condition = both(condition, self.conditions[call.index])
        return condition


def holds(condition: Condition, is_empty: Mapping[str, Any]) -> Any:
    """Returns whether what a condition describes goes.

    Args:
        condition: Of a call or a group.
        is_empty: Group name -> whether it has no channels, or an array of that; those
            not named have some.

    Returns:
        A bool, or an array of them.
    """
    goes: Any = True
    for groups in condition:
        one_is_empty: Any = False
        for name in groups:
            one_is_empty = one_is_empty | is_empty.get(name, False)
        goes = goes & one_is_empty
    return goes


def implies(one: Condition, other: Condition) -> bool:
    """Returns whether the second condition holds wherever the first one does."""
    return all(any(part <= own for part in one) for own in other)


def both(one: Condition, other: Iterable[frozenset[str]]) -> Condition:
    """Returns what it takes that two conditions hold."""
    every = {*one, *other}
    # A set is superfluous where a part of it is called for, too.
    return frozenset(own for own in every if not any(part < own for part in every))


def _model_of(call: Call) -> str:
    """Returns the path of the model inside the model that a call is of."""
    return call.name.rpartition("/")[0]
