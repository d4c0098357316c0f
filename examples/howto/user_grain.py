"""Orleans' UserGrain: a user with a profile and a cart, each in a store of its own.

In Orleans a constructor asks for `[PersistentState("profile", "profileStore")] IPersistentState<ProfileState>`; here a
class declares it. The rest, word by word:

    State, Etag, RecordExists               value, etag, exists
    ReadStateAsync, WriteStateAsync         read, write
    ClearStateAsync                         clear
    OnActivateAsync                         on_activate, after all states are loaded
    InconsistentStateException              ConflictError, with both etags
    GetGrain<IUserGrain>("user-42")         client.activate(User, "user-42")
    AddRedisGrainStorage("profileStore")    [stores.profiles] in the workers' configuration

A grain has one activation at a time. Of an entity there may be several: their etags keep them apart, as below.

Start a service that has both stores:

    [stores.profiles]
    url = "mongodb://db1,db2,db3/profiles?replicaSet=rs0"

    [stores.carts]
    url = "mongodb://cart1,cart2,cart3/carts?replicaSet=rs1"

and then: `HOLDFAST_AMQP_URL=amqp://… python -m examples.howto.user_grain`
"""

import asyncio
import os

from pydantic import BaseModel

import holdfast
from holdfast import Client, Entity, PersistentState, persistent


class Profile(BaseModel):
    """What is known of a user."""

    name: str = ""
    joined: int | None = None


class Cart(BaseModel):
    """What a user is about to buy."""

    items: dict[str, int] = {}


class User(Entity):
    """Both, loaded before anybody uses them."""

    profile: PersistentState[Profile] = persistent("profile", store="profiles", default=Profile)
    cart: PersistentState[Cart] = persistent("cart", store="carts", default=Cart)

    async def on_activate(self) -> None:
        """Greet whoever has a name already."""
        if self.profile.exists:
            print(f"welcome back, {self.name}")

    @property
    def name(self) -> str:
        """No call: it is loaded."""
        return self.profile.value.name

    async def set_name(self, name: str) -> None:
        """Change the profile and store it, on condition that nobody else has meanwhile."""
        self.profile.value.name = name
        await self.profile.write()

    async def add_to_cart(self, item: str, count: int = 1) -> None:
        """As many users of one cart as there are may do this at the same time: it is done again where they collide."""

        def add(cart: Cart) -> None:
            cart.items[item] = cart.items.get(item, 0) + count

        await self.cart.update(add)


async def tour(client: Client) -> None:
    """What the tutorial does, and what happens when two silos have the same grain."""
    async with client.activate(User, "user-42") as user:
        await user.set_name("Ada")
        await user.add_to_cart("apple")

    async with client.activate(User, "user-42") as user, client.activate(User, "user-42") as twin:
        await asyncio.gather(user.add_to_cart("pear"), twin.add_to_cart("pear"))
        await user.cart.read()
        print(f"{user.name} has {user.cart.value.items}")

        await user.set_name("Ada Lovelace")
        try:
            await twin.set_name("Eve")
        except holdfast.ConflictError as conflict:
            print(f"the twin is behind: {conflict.actual} is there, it knew {conflict.expected}")
            await twin.profile.read()
        print(f"both know {twin.name}")

        await user.cart.clear()
        print(f"the cart is {'there' if user.cart.exists else 'gone'}; its past is not:")
        async for revision in user.cart.history():
            print(f"  version {revision.version}: {revision.value.items if revision.value else 'cleared'}")


async def main() -> None:
    """Do it on the service that the environment names."""
    async with holdfast.connect(os.environ["HOLDFAST_AMQP_URL"]) as client:
        await tour(client)


if __name__ == "__main__":
    asyncio.run(main())
