"""Entities: several named states of one thing, in any stores, loaded before they are used. After Orleans' grains."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints
from weakref import WeakKeyDictionary

from ..events import ActivationError
from .joint import Joint
from .lifetime import Ttl
from .serializers import Serializer
from .state import PersistentState

if TYPE_CHECKING:
    from .client import Client

E = TypeVar("E", bound="Entity")


class Declared:
    """A state as a class declares it; see :func:`persistent`."""

    def __init__(
        self,
        name: str | None,
        *,
        store: str | None,
        default: Callable[[], Any] | None,
        ttl: Ttl | None,
        serializer: Serializer[Any] | None,
    ) -> None:
        self.attribute = ""
        self.name = name or ""
        self.store = store
        self.default = default
        self.ttl = ttl
        self.serializer = serializer

    def __set_name__(self, owner: type, attribute: str) -> None:
        """Learn what it is called in its class."""
        self.attribute = attribute
        self.name = self.name or attribute


def persistent(
    name: str | None = None,
    *,
    store: str | None = None,
    default: Callable[[], Any] | None = None,
    ttl: Ttl | None = None,
    serializer: Serializer[Any] | None = None,
) -> Any:
    """Declare a state of an :class:`Entity`; its annotation, ``PersistentState[T]``, says of which type.

    :param name: the last part of its key; by default what the attribute is called.
    :param store: where it is kept; by default where the client keeps things.
    :param default: makes the value of a state that is absent.
    :param ttl: how long it lives after each write and update: seconds, a timedelta of whole ones, or "forever".
    :param serializer: in the place of the one that fits the type.
    """
    return Declared(name, store=store, default=default, ttl=ttl, serializer=serializer)


class Entity:
    """Something with several states, each a :class:`PersistentState` of its own. Derive from it, and ``activate``::

        class User(Entity):
            profile: PersistentState[Profile] = persistent(store="profiles")
            cart: PersistentState[Cart] = persistent(store="carts", default=Cart)

        async with client.activate(User, "user-42") as user:
            user.cart.value.items.append("apple")
            await user.save()

    A state is kept under the key ``<id>/<name>``, unless ``key_of`` says otherwise. Two activations of one entity, here
    or elsewhere, know nothing of each other: what one writes is a conflict to the other, as with any two handles.
    """

    _declared: ClassVar[dict[str, Declared]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        """Collect what the class declares, and what those do that it derives from."""
        super().__init_subclass__(**options)
        own = {name: each for name, each in vars(cls).items() if isinstance(each, Declared)}
        inherited = {name: each for name, each in cls._declared.items() if name not in vars(cls)}
        cls._declared = inherited | own

    def __init__(self, client: "Client", id: str, *, timeout: float | None = None) -> None:  # noqa: A002
        """Make one that is not loaded: ``client.activate`` does both."""
        self.client = client
        self.id = id
        self._timeout = timeout
        self._states: dict[str, PersistentState[Any]] = {}
        types = _types_of(type(self))
        for attribute, declared in self._declared.items():
            state: PersistentState[Any] = client.state(
                self.key_of(declared.name),
                types[attribute],
                store=declared.store,
                default=declared.default,
                ttl=declared.ttl,
                timeout=timeout,
                serializer=declared.serializer,
            )
            self._states[attribute] = state
            setattr(self, attribute, state)

    def key_of(self, name: str) -> str:
        """The key of the state of that name."""
        return f"{self.id}/{name}"

    async def on_activate(self) -> None:
        """Called when all states are loaded, before anybody else has the entity. What it raises ends the activation."""

    async def load(self) -> None:
        """Read all states, at the same time: it takes as long as the slowest of them.

        :raises ActivationError: if one cannot be read; it names the state, and its ``__cause__`` says why.
        """
        loaded = await asyncio.gather(*(state.read() for state in self._states.values()), return_exceptions=True)
        for attribute, fault in zip(self._states, loaded, strict=True):
            if isinstance(fault, Exception):
                told = f"{type(self).__name__} {self.id!r}: the state {attribute!r} cannot be loaded: {fault}"
                raise ActivationError(told, state=attribute) from fault
            if fault is not None:
                raise fault

    async def save(self) -> None:
        """Write all states that have changed, each on condition that it is as its handle last knew it.

        Those of one store are one transaction: all of them are stored, or none. Stores stand for themselves: if one
        fails, what is in the others is stored all the same. What was not stored is still changed, for the next time.

        :raises ConflictError: if a state has moved on; ``key`` says which.
        :raises HoldfastError: as ``write``. If several stores fail, the first one's error has notes of the others.
        """
        changed: dict[str, list[PersistentState[Any]]] = {}
        for state in self._states.values():
            if state.changed:
                changed.setdefault(state.store, []).append(state)
        # All of it is in the queues of the handles before anything else gets there.
        writes = [start_writing(self.client, states, self._timeout) for states in changed.values()]
        await asyncio.gather(*(ends for _, ends in writes))
        faults = [fault for joint, ends in writes if (fault := _fault_of(joint, ends.result())) is not None]
        for other in faults[1:]:
            faults[0].add_note(f"and {type(other).__name__}: {other}")
        if faults:
            raise faults[0]


#: What came of the writes of several states: an error each, or None.
_Ends = asyncio.Future[list[BaseException | None]]


def start_writing(
    client: "Client", states: Sequence[PersistentState[Any]], timeout: float | None
) -> tuple[Joint | None, _Ends]:
    """Begin to write states of one store, all of them or none."""
    joint = None if len(states) == 1 else Joint(client, states, store=states[0].store, timeout=timeout)
    return joint, asyncio.gather(*(state.start_writing(joint) for state in states), return_exceptions=True)


def _fault_of(joint: Joint | None, ends: Sequence[BaseException | None]) -> BaseException | None:
    fault = next((end for end in ends if end is not None), None)
    return joint.cause if fault is not None and joint is not None and joint.cause is not None else fault


@asynccontextmanager
async def activate(client: "Client", type_: type[E], id_: str, *, timeout: float | None) -> AsyncIterator[E]:
    """See :meth:`Client.activate`."""
    entity = type_(client, id_, timeout=timeout)
    await entity.load()
    await entity.on_activate()
    yield entity


#: What annotations say, by class: resolving them takes longer than all the rest of an activation.
_resolved: WeakKeyDictionary[type[Entity], dict[str, Any]] = WeakKeyDictionary()


def _types_of(cls: type[Entity]) -> dict[str, Any]:
    """The type of each declared state's values."""
    types = _resolved.get(cls)
    if types is None:
        types = _resolved[cls] = _resolve(cls)
    return types


def _resolve(cls: type[Entity]) -> dict[str, Any]:
    hints = get_type_hints(cls)
    types: dict[str, Any] = {}
    for attribute in cls._declared:
        hint = hints.get(attribute)
        if get_origin(hint) is not PersistentState:
            raise TypeError(f"{cls.__name__}.{attribute} needs an annotation, PersistentState[…], that says its type")
        (types[attribute],) = get_args(hint)
    return types
